# %% [markdown]
# # AlexNet in one hour
#
# This notebook explains the network of *ImageNet Classification with Deep Convolutional Neural
# Networks* (Krizhevsky, Sutskever, Hinton, 2012) layer by layer and follows one photograph through
# it. It then places the network on two devices, as the paper does. Each device holds half of the
# kernels, called a *tower*, and the devices communicate only where the towers meet.
#
# The notebook is about shapes, so two virtual CPU devices stand for the two GPUs of the paper on any
# hardware, whatever accelerator the first cell names.

# %% tags=["parameters"]
WIDTH = 1.0  # factor of the number of features of each layer; 1 is the paper's network
BATCH = 16  # batch size of the training step whose communication is counted

# %%
import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)

import jax.numpy as jnp
import matplotlib.pyplot as plt
from ml_collections import FrozenConfigDict
import numpy as np

import alexnet_jax
from alexnet_jax import config as configs
from alexnet_jax import models, steps
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.evaluation import describe
from alexnet_jax.evaluation.collectives import collectives
from alexnet_jax.steps import augment

config = configs.load_file('alexnet:paper')
config.model.width = WIDTH
config.model.num_classes = 1000
config.train.batch_size = BATCH
jax.devices()

# %% [markdown]
# ## Eight layers
#
# The config describes the network as data. Each layer has a number of features (over both towers), a
# kernel size, and the operations that follow it (`then`).

# %%
for layer in config.model.layers:
  described = config.model[layer].to_dict()
  print(
    layer,
    {key: described[key] for key in ('features', 'size', 'stride', 'then') if key in described},
  )

# %% [markdown]
# Which layers hold the parameters, and which do the work? The convolutions do nearly all of the work
# with few parameters. The fully connected layers hold nearly all of the parameters and do little of
# the work.

# %%
line = '{:8} {:>12} {:>12,} {:>14,}'
rows = models.layer_table(config.model)
for row in rows:
  print(
    line.format(row['layer'], 'x'.join(map(str, row['output'])), row['parameters'], row['macs'])
  )
print(line.format('in all', '', *(sum(row[key] for row in rows) for key in ('parameters', 'macs'))))

learnt = [row for row in rows if row['parameters']]
figure, axes = plt.subplots(1, 2, figsize=(9, 2.5), sharey=True)
for axis, key, title in zip(
  axes, ('parameters', 'macs'), ('parameters', 'multiply-adds of an image')
):
  axis.barh([row['layer'] for row in learnt], [row[key] for row in learnt])
  axis.set_title(title)
axes[0].invert_yaxis()

# %% [markdown]
# ## A photograph
#
# Images are stored at 256x256 pixels; such an image is called a *canvas*. Training takes random
# 224x224 crops of it. Evaluation averages the predictions of ten views: the four corners and the
# centre, and their mirror images. The picture shows the canvas and the first five views. The third
# view is used below.

# %%
import matplotlib.cbook

from alexnet_jax.data import Canvas, decode_canvas

with matplotlib.cbook.get_sample_data('grace_hopper.jpg') as file:
  canvas = decode_canvas(file.read(), Canvas.from_config(config.data.canvas))
mean = np.full(
  canvas.shape, 120.0, np.float32
)  # a trained network subtracts the mean of its training images
cut_out = jax.jit(augment.eval_images, static_argnames='config')
views = [
  cut_out(canvas[None], jnp.float32(view), mean, config=FrozenConfigDict(config))[0]
  for view in augment.VIEWS[10]
]
figure, axes = plt.subplots(1, 6, figsize=(12, 2.5))
for axis, picture in zip(axes, [canvas / 255, *((view + 120) / 255 for view in views)]):
  axis.imshow(picture)
  axis.set_title('x'.join(map(str, picture.shape)), fontsize=9)
  axis.axis('off')

# %% [markdown]
# ## Through the layers
#
# `alexnet_jax.create` returns a Flax module. The first axis of every parameter has length two, one
# entry for each tower. The bias of the last layer is the only exception.

# %%
network = alexnet_jax.create(config.model)
photograph = views[2][None]
params = jax.jit(network.init)(jax.random.key(0), photograph)['params']
for layer, leaves in params.items():
  print(layer, {name: leaf.shape for name, leaf in leaves.items()})

# %% [markdown]
# The next cell prints the output shape of every layer and operation for each tower. An input of 224
# pixels gives 55 rows in conv1, because the original code pads three rows of zeros below and three
# columns on the right. Every pooling window covers 3x3 positions and moves by two, so that
# neighbouring windows overlap.


# %%
@jax.jit
def look(params, images):
  """Returns the logits and, for each layer and operation, the list of the outputs of its towers."""
  logits, kept = network.apply({'params': params}, images, capture_intermediates=True)
  last = lambda out: (out['__call__'] if isinstance(out, dict) else out)[-1]
  return logits, [last(kept['intermediates'][name]) for name in names]


names = [  # every layer but fc8, whose output is the logits, and the operations that follow the layers
  name
  for layer in config.model.layers[:-1]
  for name in (layer, *(f'{layer}/{operation}' for operation in config.model[layer].then))
]
logits, inside = look(params, photograph)
for name, towers in zip(names, inside):
  print(f'{name:13}', ' and '.join(str(tower.shape[1:]) for tower in towers))
print('logits       ', logits.shape[1:])

# %% [markdown]
# ## Where the towers meet
#
# We change conv1 in the first tower only and compare the outputs of both towers. The second tower
# does not change before conv3, which is the first layer that receives both towers.

# %%
disturbed = dict(params)
disturbed['conv1'] = {**params['conv1'], 'kernel': params['conv1']['kernel'].at[0].multiply(2)}
_, other = look(disturbed, photograph)
for name, *both in zip(names, inside, other):
  changed = ['changed' if np.any(a != b) else '   -   ' for a, b in zip(*both)]
  print(f'{name:13}', *changed)

# %% [markdown]
# ## The ideas of the paper
#
# **ReLU** is the subject of the next notebook. **Local response normalisation** divides each activation by a
# function of the activations at the same position in the neighbouring maps. A large activation
# reduces itself and its neighbours.

# %%
from alexnet_jax.models import layers

maps = np.zeros((1, 1, 1, 32), np.float32)
maps[..., 16], maps[..., 18] = 300, 60
lrn = config.model.lrn
constants = {'size': lrn.size, 'k': lrn.k, 'alpha': lrn.alpha, 'beta': lrn.beta}
normalised = layers.local_response_norm(jnp.asarray(maps), **constants)
plt.figure(figsize=(7, 2))
plt.bar(np.arange(32) - 0.2, maps.ravel(), 0.4, label='before')
plt.bar(
  np.arange(32) + 0.2, np.ravel(normalised) * lrn.k**lrn.beta, 0.4, label='after, times k^beta'
)
plt.xlabel('map')
plt.legend()
plt.show()

# %% [markdown]
# **Dropout** sets each unit of fc6 and fc7 to zero with probability 1/2, anew for every image and
# every step, so that no unit can rely on another one. As in the paper, nothing is scaled up in
# training. Instead, the activations are halved at test time.


# %%
@jax.jit
def in_training(params, images, key):
  return network.apply({'params': params}, images, train=True, rngs={'dropout': key})


for seed in range(3):
  train = in_training(params, photograph, jax.random.key(seed))
  print('training, seed', seed, np.round(np.asarray(train[0, :5]), 4))
print('test             ', np.round(np.asarray(logits[0, :5]), 4))

# %% [markdown]
# ## On two devices
#
# A *mesh* assigns devices to roles: the mesh `(1, 2)` is one group of two towers. The training state
# is sharded over the mesh. The next cell shows the shards of the kernel of conv3, and how much of the
# parameters and the momentum each device holds.

# %%
config.mesh = (1, 2)
frozen = FrozenConfigDict(config)
mesh = mesh_lib.make_mesh(frozen)
state = steps.init_state(frozen, mesh)
held, total = sharding.bytes_per_device((state.params, state.opt_state))
print(f'{held / 2**20:.1f} of {total / 2**20:.1f} MiB a device')
for shard in state.params['conv3']['kernel'].addressable_shards:
  print('conv3 on', shard.device, shard.data.shape)

# %% [markdown]
# The compiled training step shows what the devices exchange. The forward pass gathers the outputs of
# pool2, pool5 and fc6 (Figure 2 of the paper); the backward pass sums their gradients and scatters them.
# Partial logits are summed. The gradients of the weights are not exchanged, because each tower has
# its own weights.

# %%
program = describe.compiled_step(frozen, mesh, state).as_text()
for message in collectives(program, mesh):
  print(
    f'{message["kind"]:15} over {message["axis"]:6} {message["bytes"] / BATCH / 1024:8.1f} KiB an image'
  )

# %% [markdown]
# On a node with eight GPUs the same program runs with `--config.mesh=4,2`. The network does not
# change.
