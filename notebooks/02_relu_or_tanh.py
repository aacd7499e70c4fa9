# %% [markdown]
# # ReLU or tanh?
#
# Figure 1 of the paper shows that a four-layer network reaches 25 % training error on CIFAR-10 about
# six times faster with rectified linear units (ReLU) than with tanh units. This notebook trains both
# networks. The complete experiment with several learning rates and seeds is `python
# experiments/fig1.py`; its results are in [RESULTS.md](../RESULTS.md).
#
# To finish within minutes on two CPU cores, the outputs shown here were made with fewer epochs than
# the parameter cell sets; the cell after it states the number.

# %% tags=["parameters"]
SOURCE = 'tfds:cifar10'  # or folder:PATH
EPOCHS = 10.0
RATE = 0.001
SETTINGS = {}  # further config keys and their values
WORKDIR = 'runs/relu_or_tanh'

# %%
import json
import pathlib
import urllib.request

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import alexnet_jax
from alexnet_jax import config as configs
from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference.classifier import Classifier
from alexnet_jax.training.loop import train
from alexnet_jax.utils import console

console.setup()
jax.devices()

# %% [markdown]
# ## Two functions and their slopes
#
# In the backward pass the gradient of a unit is multiplied by the slope of its activation function.
# The slope of tanh vanishes on both sides. The slope of ReLU is 1 wherever the unit is active.

# %%
x = jnp.linspace(-4, 4, 200)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.5))
for name, function in {'ReLU': jax.nn.relu, 'tanh': jnp.tanh}.items():
  axes[0].plot(x, function(x), label=name)
  axes[1].plot(x, jax.vmap(jax.grad(function))(x), label=name)
axes[0].set_title('function')
axes[1].set_title('slope')
axes[0].legend()
plt.show()

# %% [markdown]
# ## One experiment, one difference
#
# The two configs differ only in the activation function and in their names. Both runs use the same
# images in the same order and the same initial weights.

# %%
both = {}
for name in ('relu', 'tanh'):
  both[name] = recipes.apply(
    configs.load_file(f'cifar10:{name}'),
    {
      'data.source': SOURCE,
      'optim.rate': RATE,
      'optim.bias_rate': 2 * RATE,
      'train.epochs': EPOCHS,
      **SETTINGS,
    },
  )
first, second = (configs.flatten(config) for config in both.values())
{key: (first[key], second[key]) for key in first if first[key] != second[key]}

# %%
dataset = open_dataset(both['relu'].data, seed=0)
batch = next(dataset.train_batches(0, 20))
figure, axes = plt.subplots(2, 10, figsize=(10, 2.6))
for axis, image, label in zip(axes.flat, batch['image'], batch['label']):
  axis.imshow(image)
  axis.set_title(dataset.class_names[label], fontsize=8)
  axis.axis('off')

# %% [markdown]
# ## Training
#
# The error on the whole training set is measured after every epoch, and a run ends when this error
# falls to 25 %. If you stop the cell and run it again, training resumes from the last checkpoint.

# %%
for name, config in both.items():
  ended = train(config, f'{WORKDIR}/{name}')
  print(name, 'after', ended['step'], 'steps: loss', round(ended['loss'], 3))

# %% [markdown]
# ## Which network learns faster?


# %%
def errors(name):
  """Returns the epochs and training errors of a run; epoch 0 has the error of guessing."""
  lines = (pathlib.Path(WORKDIR) / name / 'metrics.jsonl').read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if 'train_set/top1_error' in row]
  guessing = 100 - 100 / len(dataset.class_names)
  epochs = [0, *(row['epoch'] for row in rows)]
  return epochs, [guessing, *(row['train_set/top1_error'] for row in rows)]


curves = {name: errors(name) for name in both}
for (name, (epochs, error)), style in zip(curves.items(), ('-', '--')):
  plt.plot(epochs, error, f'k{style}', label=name)
plt.axhline(25, color='gray', linewidth=0.8)
plt.xlabel('epochs')
plt.ylabel('training error, %')
plt.legend()
plt.show()

# %% [markdown]
# The next cell takes the lowest error that both networks have reached and computes when each reached
# it first.

# %%
level = max(min(error) for _, error in curves.values())
there = {}
for name, (epochs, error) in curves.items():
  after = next(i for i, value in enumerate(error) if value <= level)
  before = max(after - 1, 0)
  there[name] = np.interp(level, [error[after], error[before]], [epochs[after], epochs[before]])
if all(there.values()):
  print(f'{level:.1f} % after', ', '.join(f'{at:.1f} epochs of {n}' for n, at in there.items()))
  print(f'{there["tanh"] / there["relu"]:.1f} times sooner with ReLU')
else:
  print('one of them is no better than guessing yet: train them longer')

# %% [markdown]
# ## Why?
#
# How many units pass almost no gradient back? We count the tanh units whose slope is below 0.1 and
# the ReLU units that are inactive. A ReLU that is inactive for one image can be active for another,
# so the maps that are inactive for all images are counted separately.
#
# In the outputs shown here, the clearest difference is in conv1, where most tanh units are saturated.
# That is a plausible cause of the slow start of tanh, not a proof. Both networks use one learning rate
# here; for Figure 1 in RESULTS.md, each has a rate of its own.

# %%
images = next(dataset.train_batches(0, 100))['image']
for name in both:
  trained = evaluate.load(f'{WORKDIR}/{name}', 'latest', both[name])
  for layer in ('conv1', 'conv3'):
    out = Classifier(trained).activations(images, layer)
    passing = out > 0 if name == 'relu' else 1 - out**2 > 0.1
    never = ~passing.reshape(-1, out.shape[-1]).any(0)
    print(
      f'{name}, {layer}: {1 - passing.mean():.0%} pass nothing back, {never.mean():.0%} of maps never'
    )

# %% [markdown]
# ## After hundreds of epochs
#
# The repository contains a larger network with ReLUs that was trained on CIFAR-10 for hundreds of
# epochs; `weights/README.md` gives its test error. The next cell lets this network classify twenty
# training images. It was trained on these same images, so its answers say nothing about its
# error on new images. A class in brackets is a wrong answer.

# %%
WEIGHTS = pathlib.Path('weights/conv_local_13pct.safetensors')
if not WEIGHTS.exists():  # outside a checkout, as in Colab
  WEIGHTS.parent.mkdir(exist_ok=True)
  address = 'https://raw.githubusercontent.com/{REPOSITORY}/{BRANCH}/'
  urllib.request.urlretrieve(address + WEIGHTS.as_posix(), WEIGHTS)
longer = alexnet_jax.load(WEIGHTS)
figure, axes = plt.subplots(2, 10, figsize=(10, 2.6))
for axis, image, label, said in zip(
  axes.flat, batch['image'], batch['label'], longer.predict(batch['image'])
):
  name = said[0]['label']
  axis.imshow(image)
  axis.set_title(name if name == dataset.class_names[label] else f'({name})', fontsize=8)
  axis.axis('off')
plt.show()
for layer in ('conv1', 'conv2', 'local3', 'local4'):
  inactive = longer.features(images, layer) <= 0
  print(f'{layer}: {inactive.mean():.0%} inactive, {inactive.all(0).mean():.0%} for all images')
