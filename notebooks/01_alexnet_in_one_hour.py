# %% [markdown]
# # AlexNet in one hour
#
# The network of *ImageNet Classification with Deep Convolutional Neural Networks* (Krizhevsky, Sutskever,
# Hinton, 2012), layer by layer, with a photograph going through it, and then on two devices, as in the
# paper: each holds half of the kernels, a *tower*, and they talk only where they must.
#
# It is about shapes, so two virtual CPU devices play the paper's two GPUs, whatever hardware there is.

# %% tags=["parameters"]
WIDTH = 1.0  # of every layer; 1 is the paper's
BATCH = 16  # photographs a training step, where messages between devices are counted

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
# Everything the network is made of is data: each layer has its number of features (over both towers), its
# size, and what comes `then`.

# %%
for layer in config.model.layers:
  described = config.model[layer].to_dict()
  print(
    layer,
    {key: described[key] for key in ('features', 'size', 'stride', 'then') if key in described},
  )

# %% [markdown]
# Where are its numbers, and where is its work? The convolutions do nearly all of the work with few numbers;
# the fully connected layers are the other way round.

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
# Images are kept as *canvases* of 256x256 pixels. Training cuts random 224x224 crops from them, a test
# averages ten views: four corners and the centre, each mirrored too.

# %%
import matplotlib.cbook

from alexnet_jax.data import Canvas, decode_canvas

with matplotlib.cbook.get_sample_data('grace_hopper.jpg') as file:
  canvas = decode_canvas(file.read(), Canvas.from_config(config.data.canvas))
mean = np.full(canvas.shape, 120.0, np.float32)  # training would know the mean image
cut_out = jax.jit(augment.test_images, static_argnames='config')
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
# `alexnet_jax.create` gives a Flax module. Every parameter but the last bias begins with an axis of two, the
# towers.

# %%
network = alexnet_jax.create(config.model)
photograph = views[2][None]
params = jax.jit(network.init)(jax.random.key(0), photograph)['params']
for layer, leaves in params.items():
  print(layer, {name: leaf.shape for name, leaf in leaves.items()})

# %% [markdown]
# What comes out of every layer and operation, tower by tower. 224 pixels give 55 rows of conv1, as the
# original adds three rows of zeros below and to the right; every pool looks at 3x3 places and moves by two,
# so that windows overlap.


# %%
@jax.jit
def look(params, images):
  """The logits, and what each layer and operation gave: a list of towers."""
  logits, kept = network.apply({'params': params}, images, capture_intermediates=True)
  last = lambda out: (out['__call__'] if isinstance(out, dict) else out)[-1]
  return logits, [last(kept['intermediates'][name]) for name in names]


names = [  # of every layer but fc8, which gives the logits, and of the operations that follow it
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
# Disturb conv1 of the first tower alone and see what changes in the second: nothing, up to conv3, which
# sees both.

# %%
disturbed = dict(params)
disturbed['conv1'] = {**params['conv1'], 'kernel': params['conv1']['kernel'].at[0].multiply(2)}
_, other = look(disturbed, photograph)
for name, *both in zip(names, inside, other):
  changed = ['changed' if np.any(a != b) else '   -   ' for a, b in zip(*both)]
  print(f'{name:13}', *changed)

# %% [markdown]
# ## Its ideas, one by one
#
# **ReLU**: the next notebook. **Local response normalisation** divides each number by what its neighbours,
# the maps beside it, have at the same place: a large one is damped and damps others.

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
# **Dropout** leaves out half of the units of fc6 and fc7, others for every image and step, so that none can
# rely on another.


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
# A *mesh* says which device does what: `(1, 2)` is one group of two towers. The training state is laid out
# over it; look at the pieces of conv3's kernel, and at what each device keeps of all parameters and momenta.

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
# And what they say to each other, read from the compiled training step: outputs of conv2, conv5 and fc6 are
# gathered on the way forward (the paper's Figure 2), their gradients scattered on the way back, and partial
# logits summed. Gradients of the weights never travel: each tower has its own.

# %%
program = describe.compiled_step(frozen, mesh, state).as_text()
for message in collectives(program, mesh):
  print(
    f'{message["kind"]:15} over {message["axis"]:6} {message["bytes"] / BATCH / 1024:8.1f} KiB an image'
  )

# %% [markdown]
# The same program on a node of eight GPUs is `--config.mesh=4,2`; nothing in the network changes.
