# %% [markdown]
# # Train on your own photographs
#
# From a folder of pictures to a network that tells them apart, and a page about it. The images this
# notebook comes with are the 2,624 solar cells of the package `elpv-dataset` (Buerhop-Lutz and others,
# 2018, CC BY-NC-SA 4.0, not for commercial use); the task is to tell mono- from polycrystalline ones.
#
# Yours are a folder with a folder for each class, `PHOTOS/cats/*.jpg`, `PHOTOS/dogs/*.jpg`; a tenth of them
# is held out to measure with. In Colab, upload them, or mount your drive:
#
# ```python
# from google.colab import drive
# drive.mount('/content/drive')
# SOURCE = 'folder:/content/drive/MyDrive/PHOTOS'
# ```

# %% tags=["parameters"]
SOURCE = 'elpv'  # or folder:PATH, or tfds:NAME
EPOCHS = 20.0
SETTINGS = {}  # further keys of the config: 'model.width': 1.0 is the paper's network, on a GPU
WORKDIR = 'runs/quickstart'

# %%
import json
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from ml_collections import FrozenConfigDict
import numpy as np
from PIL import Image

from alexnet_jax import config as configs
from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import predict
from alexnet_jax.report.page import report
from alexnet_jax.steps import augment, rng
from alexnet_jax.training.loop import train
from alexnet_jax.utils import console

console.setup()
jax.devices()

# %% [markdown]
# ## The images

# %%
config = recipes.apply(
  configs.load_file('quickstart'), {'data.source': SOURCE, 'train.epochs': EPOCHS, **SETTINGS}
)
dataset = open_dataset(config.data, config.seed)
print(
  dataset.num_train, 'to train on:', dict(zip(dataset.class_names, dataset.train_counts.tolist()))
)
print(dataset.num_validation, 'held out')


# %%
def show(images, titles, columns=6):
  """Images side by side."""
  rows = -(-len(images) // columns)
  _, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.2 * rows), squeeze=False)
  for axis in axes.flat:
    axis.axis('off')
  for axis, image, title in zip(axes.flat, images, titles):
    axis.imshow(image)
    axis.set_title(title, fontsize=9)


batch = next(dataset.train_batches(0, 6))
show(batch['image'], [dataset.class_names[label] for label in batch['label']])

# %% [markdown]
# A network with many weights and few images learns them by heart, unless each looks different every time:
# here is one photograph as the network sees it in six epochs, cut out at random, mirrored or not, its
# colours shifted along their principal components. (On gray images nothing is to be seen of the latter but
# brightness.)

# %%
statistics = dataset.statistics()
same = jnp.repeat(batch['image'][:1], 6, axis=0)
look = jax.jit(augment.train_images, static_argnames='config')
colour = jnp.float32(config.augment.colour)
seen = look(
  same,
  jnp.arange(6),
  rng.seed_key(0),
  jnp.int32(0),
  colour,
  statistics,
  config=FrozenConfigDict(config),
)
show((np.asarray(seen) - np.min(seen)) / np.ptp(seen), [f'epoch {i}' for i in range(1, 7)])

# %% [markdown]
# ## Training
#
# Stop this cell and run it again: it goes on where it was. When the run is done it returns at once.

# %%
ended = train(config, WORKDIR)
print('after', ended['step'], 'steps: loss', round(ended['loss'], 3), 'error', ended['top1_error'])

# %%
rows = [
  json.loads(line) for line in (pathlib.Path(WORKDIR) / 'metrics.jsonl').read_text().splitlines()
]
figure, axes = plt.subplots(1, 2, figsize=(10, 3))
for axis, keys, title in (
  (axes[0], ('loss', 'val/loss'), 'loss'),
  (axes[1], ('train/top1_error', 'val/top1_error'), 'error, %'),
):
  for key, label in zip(keys, ('training', 'held out')):
    axis.plot(
      [row['epoch'] for row in rows if key in row],
      [row[key] for row in rows if key in row],
      label=label,
    )
  axis.set_title(title)
  axis.set_xlabel('epoch')
axes[0].legend()
plt.show()

# %% [markdown]
# ## How good is it?
#
# On the images held out, by the average of ten views. Beside it what one gets by always saying the most
# frequent class, and by a ridge regression on 16x16 pixels: a network that does not beat these has learnt
# nothing worth its time.

# %%
evaluate.evaluate(config, [WORKDIR], which='latest')

# %% [markdown]
# ## What does it say?
#
# Of any files: here three of the images held out, saved as if they came from a camera. The picture is
# Figure 4 of the paper.

# %%
folder = pathlib.Path(WORKDIR) / 'camera'
some = np.linspace(0, dataset.num_validation - 1, 3).astype(int)
for i, canvas in zip(some, dataset.canvases('validation', some)):
  place = folder / dataset.class_names[dataset.validation_labels[i]] / f'{i}.png'
  place.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(canvas).save(place)
picture = pathlib.Path(WORKDIR) / 'said.png'  # beside the folder: all in it is asked about
said = predict.predict(config, WORKDIR, [str(folder)], 'latest', picture=str(picture))
for image in said['images']:
  print(image['path'], image['top'][0])
Image.open(picture)

# %% [markdown]
# ## A page about it
#
# Curves, kernels, mistakes and neighbours in one file that you can keep or send: in Colab, `from
# google.colab import files; files.download(page['output'])`.

# %%
page = report(config, WORKDIR, 'latest')
page

# %% [markdown]
# ## Where next
#
# Few images of your own? Begin with the layers of a network that has seen more: `config.init_from =
# 'runs/other'` copies all layers but the last from that run (see `configs/cats_vs_dogs.py`).
