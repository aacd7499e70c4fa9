# %% [markdown]
# # Train on your own photographs
#
# This notebook trains a classifier on a folder of images and writes a report about it. By default it
# uses the 2,624 photographs of solar cells in the package `elpv-dataset` (Buerhop-Lutz and others,
# 2018, CC BY-NC-SA 4.0, not for commercial use). The task is to distinguish monocrystalline from
# polycrystalline cells.
#
# To use your own images, make a folder with one folder per class (`PHOTOS/cats/*.jpg`,
# `PHOTOS/dogs/*.jpg`), and change SOURCE, WORKDIR and SETTINGS in the next cell. A tenth of the images
# is held out for evaluation. In Colab, upload the folder or mount your drive:
#
# ```python
# from google.colab import drive
# drive.mount('/content/drive')
# SOURCE = 'folder:/content/drive/MyDrive/PHOTOS'
# WORKDIR = 'runs/photos'  # each set of images needs a folder of its own
# SETTINGS = {'data.canvas.exif_orientation': True}  # turns photographs upright
# ```
#
# Other SETTINGS need another WORKDIR too. If you change EPOCHS, also set 'optim.boundaries' in
# SETTINGS. The learning rate is divided by 10 at these epochs, for example (28.0, 36.0) of 40.

# %% tags=["parameters"]
SOURCE = 'elpv'  # or folder:PATH, or tfds:NAME
EPOCHS = 20.0
SETTINGS = {}  # further config keys; {'model.width': 1.0} has the widths of the paper, for a GPU
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
  """Shows images side by side."""
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
# A network with many weights memorises a small set of images unless each image looks different in
# every epoch. The next cell shows one photograph as the network sees it in six epochs: cropped and
# mirrored at random, with its colours shifted along their principal components. On gray images the
# colour shift only changes the brightness.

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
# If you stop this cell and run it again, training resumes from the last checkpoint. For a finished
# run the cell returns at once.

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
# The next cell evaluates the network on the held-out images with the average of ten views. It also
# gives the error of always predicting the most frequent class and the error of a ridge regression on
# 16x16 pixels. A useful network must have a lower error than both. The regression sees only the
# centre view: for a fair comparison set 'eval.views': 1 in SETTINGS.

# %%
evaluate.evaluate(config, [WORKDIR], which='latest')

# %% [markdown]
# ## Predictions
#
# The network can classify any image file. Here we save three of the held-out images as files and
# classify them. The picture follows Figure 4 of the paper.

# %%
folder = pathlib.Path(WORKDIR) / 'camera'
some = np.linspace(0, dataset.num_validation - 1, 3).astype(int)
for i, canvas in zip(some, dataset.canvases('validation', some)):
  place = folder / dataset.class_names[dataset.validation_labels[i]] / f'{i}.png'
  place.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(canvas).save(place)
picture = (
  pathlib.Path(WORKDIR) / 'said.png'
)  # outside the folder, because every image in it is classified
said = predict.predict(config, WORKDIR, [str(folder)], 'latest', picture=str(picture))
for image in said['images']:
  print(image['path'], image['top'][0])
Image.open(picture)

# %% [markdown]
# ## The report
#
# The report is one HTML file with curves, kernels, mistakes and nearest neighbours. In Colab,
# download it with `from google.colab import files; files.download(page['output'])`.

# %%
page = report(config, WORKDIR, 'latest')
page

# %% [markdown]
# ## Next steps
#
# If you have few images, you can start from a network that was trained on many varied images. Set
# `SETTINGS = {'init_from': 'runs/other'}`, where `runs/other` is a run of the same widths, and name a
# new WORKDIR: all layers but the last are copied. The solar cells are too special for this.
