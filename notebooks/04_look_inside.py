# %% [markdown]
# # Look inside
#
# What has a trained network learnt? This notebook shows its first kernels (Figure 3 of the paper),
# the activation maps of an image, the images that it considers similar (Figure 4), and the parts of
# an image that its prediction depends on.

# %% tags=["parameters"]
WORKDIR = 'runs/quickstart'  # the folder of a run; this one is trained if it does not exist
SETTINGS = {}  # further config keys, which are used if the run has to be trained
BITS = 32  # length of the binary codes

# %%
import pathlib
import urllib.request

import jax
import matplotlib.pyplot as plt
import numpy as np

from alexnet_jax import config as configs
from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference.classifier import Classifier
from alexnet_jax.report import kernels, neighbours
from alexnet_jax.training.loop import train
from alexnet_jax.utils import console
from alexnet_jax.workdir import archive

console.setup()
if not (pathlib.Path(WORKDIR) / 'config.json').exists():
  train(recipes.apply(configs.load_file('quickstart'), SETTINGS), WORKDIR)
config = configs.load_workdir(WORKDIR)
config.mesh = (1, 1)
trained = evaluate.load(WORKDIR, 'latest', config)
model, params = trained.model, trained.model.params
dataset = open_dataset(config.data, config.seed)
print(f'{config.data.source}, step {trained.step}:', ', '.join(dataset.class_names))
jax.devices()

# %% [markdown]
# ## The first kernels
#
# Each kernel has 11x11 pixels of three colours. In the paper one tower learnt colour-agnostic kernels
# and the other colour-specific kernels in every run on ImageNet. The measure is the share of a
# kernel's sum of squares that is lost when the kernel is converted to gray. The output gives the
# difference of the towers, and `by_chance`, below which 95 % of random divisions of the kernels stay.
# On gray images the towers cannot specialise, so that the difference should lie below it.

# %%
towers = np.asarray(params['conv1']['kernel'])
figure, axes = plt.subplots(1, len(towers), figsize=(8, 3), squeeze=False)
for number, (axis, tower) in enumerate(zip(axes.flat, towers), 1):
  axis.imshow(kernels.picture(tower))
  axis.set_title(f'tower {number}')
  axis.axis('off')
kernels.specialisation(params)

# %% [markdown]
# The repository contains a network that was trained on the colour images of CIFAR-10 for hundreds of
# epochs (`weights/README.md`). Its kernels have 5x5 pixels, and it has one tower. Some kernels detect
# edges in one direction; others compare colours.

# %%
WEIGHTS = pathlib.Path('weights/conv_local_13pct.safetensors')
if not WEIGHTS.exists():  # outside a checkout, as in Colab
  WEIGHTS.parent.mkdir(exist_ok=True)
  address = 'https://raw.githubusercontent.com/{REPOSITORY}/{BRANCH}/'
  urllib.request.urlretrieve(address + WEIGHTS.as_posix(), WEIGHTS)
longer = evaluate.load(str(WEIGHTS), 'latest', archive.read_config(WEIGHTS))
plt.figure(figsize=(3, 3))
plt.imshow(kernels.picture(np.asarray(longer.model.params['conv1']['kernel'][0])))
plt.title('CIFAR-10')
plt.axis('off')
plt.show()


# %% [markdown]
# ## Activation maps of an image
#
# Each row shows a layer: the image, and the six maps whose activations vary most.


# %%
classifier = Classifier(trained)


def features(layer, batches):
  """Returns the outputs of a layer for the centre views of batches of canvases."""
  return np.concatenate([classifier.activations(batch, layer) for batch in batches])


def vectors_of(split):
  """Returns the vectors of the last hidden layer, the labels and the image indices of a split."""
  batches = list(dataset.eval_batches(config.eval.batch_size, split=split))
  column = lambda key: np.concatenate([batch[key] for batch in batches])
  vectors = features(config.model.layers[-2], (batch['image'] for batch in batches))
  return [rows[column('mask')] for rows in (vectors, column('label'), column('index'))]


query = dataset.canvases('validation', [0])
figure, axes = plt.subplots(3, 7, figsize=(10, 4.5))
for row, layer in zip(axes, ('conv1', 'conv2', 'conv5')):
  maps = features(layer, [query])[0]
  liveliest = np.argsort(-maps.std((0, 1)))[:6]
  row[0].imshow(query[0])
  row[0].set_title(f'{layer}: {"x".join(map(str, maps.shape))}', fontsize=8)
  for axis, i in zip(row[1:], liveliest):
    axis.imshow(maps[..., i], cmap='gray')
    axis.set_title(f'map {i}', fontsize=8)
for axis in axes.flat:
  axis.axis('off')

# %% [markdown]
# ## Similar images
#
# The activations of the last hidden layer, fc7, are a feature vector of the image. The plot shows the
# first two principal components of these vectors for the held-out images, coloured by class.

# %%
vectors, labels, _ = vectors_of('validation')
centred = vectors - vectors.mean(0)
main = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
for k, name in enumerate(dataset.class_names):
  plt.scatter(*main[labels == k].T, s=8, label=name)
plt.legend()
plt.show()

# %% [markdown]
# The next cell shows the nearest training images of a few images by Euclidean distance, as in Figure
# 4. The class `Index` compares the query with every stored vector; a search among 100,000 vectors of
# 4,096 numbers took a tenth of a second on two CPU cores.

# %%
stored, stored_labels, places = vectors_of('train')
shown = np.random.default_rng(0).choice(len(vectors), 3, replace=False)
near, distances = neighbours.Index(stored).nearest(vectors[shown], 6)
figure, axes = plt.subplots(len(shown), 7, figsize=(10, 5))
for row, at, found in zip(axes, shown, near):
  pictures = np.concatenate(
    [dataset.canvases('validation', [at]), dataset.canvases('train', places[found])]
  )
  names = [labels[at], *stored_labels[found]]
  for axis, picture, name in zip(row, pictures, names):
    axis.imshow(picture)
    axis.set_title(dataset.class_names[name], fontsize=8)
    axis.axis('off')

# %% [markdown]
# ## Short codes
#
# The paper suggests training an autoencoder that compresses such vectors to short binary codes, a few
# bytes per image, and comparing the codes. The next cell counts how many of the six nearest
# neighbours are among the sixty nearest by code.

# %%
encode = neighbours.train_codes(stored, BITS)
true, _ = neighbours.Index(stored).nearest(vectors, 6)
found, bits = neighbours.Codes(encode(stored)).nearest(encode(vectors), 60)
by_chance, share = found.shape[1] / len(stored), neighbours.agreement(found, true)
print(f'{BITS} bits in place of {stored.shape[1]} numbers: {share:.0%}, {by_chance:.0%} by chance')

# %% [markdown]
# ## Occlusion
#
# The next cell covers a part of the image with gray and repeats the prediction. Where the probability
# of the predicted class falls, the covered part mattered for the prediction.

# %%
STEP = 32
corners = range(0, query.shape[1], STEP)
covered = np.repeat(query, len(corners) ** 2, axis=0)
for image, (y, x) in zip(covered, np.ndindex(len(corners), len(corners))):
  image[max(0, y - 1) * STEP : (y + 2) * STEP, max(0, x - 1) * STEP : (x + 2) * STEP] = 120
said = model.predict(params, model.batch_stats, np.concatenate([query, covered]), model.mean_image)
before, after = np.split(np.asarray(said), [1])
likeliest = before[0].argmax()
falls = before[0, likeliest] - after[:, likeliest]
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout='constrained')
axes[0].imshow(query[0])
axes[0].set_title(dataset.class_names[likeliest])
drawn = axes[1].imshow(falls.reshape(len(corners), -1))
axes[1].set_title('how far the probability falls')
plt.colorbar(drawn, ax=axes[1])
for axis in axes:
  axis.axis('off')
