"""Makes the images that the network reads from canvases: crops, mirroring, mean, colour noise, test views.

A canvas is a decoded image of a fixed size, from which crops are cut. The functions are pure JAX functions of
uint8 canvases `[B, C, C, 3]` (RGB, where C is the side of the canvas) and of one random key for each row of
the batch. They run inside the jitted step. Pixel values stay in grey levels, 0 to 255. Sources: section 4.1
of the paper and docs/FACTS.md, section 3.
"""

from collections.abc import Callable
import math

import jax
from jax import lax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.models.operations import row_keys
from alexnet_jax.steps import rng

Array = jax.Array

# A view is (share of the margin above it, share of the margin to its left, whether it is mirrored). The ten
# views have the order of the original code: top left, top right, centre, bottom left, bottom right, and then
# the same five mirrored (FACTS section 3). The nine views are those of its CIFAR-10 networks (section 5).
_FIVE = ((0.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0))
VIEWS = {
  1: ((0.5, 0.5, False),),
  9: tuple((top, left, False) for top in (0.0, 0.5, 1.0) for left in (0.0, 0.5, 1.0)),
  10: tuple((top, left, mirrored) for mirrored in (False, True) for top, left in _FIVE),
}

# The limits of torchvision's RandomResizedCrop: the share of the area, and the ratio of width to height.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


def _for_each(function: Callable[..., Array], *arrays: Array) -> Array:
  """Applies a function to each row of the arrays and stacks the results.

  On a CPU this is a loop. Otherwise XLA would merge the augmentation into the first layer, and would compute
  random numbers and positions again for each pixel.
  """
  if jax.default_backend() == 'cpu':
    return lax.map(lambda row: function(*row), arrays)
  return jax.vmap(function)(*arrays)


def _cut(image: Array, top: Array, left: Array, size: int) -> Array:
  """Cuts a window: `[H, W, 3]` -> `[size, size, 3]`."""
  return lax.dynamic_slice(image, (top, left, 0), (size, size, image.shape[-1]))


def _mirror(image: Array, mirrored: Array) -> Array:
  """Mirrors an image `[H, W, 3]` left to right if `mirrored`, a bool scalar, is True.

  With `jnp.where` instead of `lax.cond`, the loop of `_for_each` takes 10 times as long on a CPU.
  """
  return lax.cond(mirrored, lambda image: image[:, ::-1], lambda image: image, image)


def _mean(config: FrozenConfigDict, mean_image: Array) -> Array:
  """Returns the mean that is subtracted from a canvas, `[C, C, 3]`."""
  if config.augment.mean == 'none':
    return jnp.zeros_like(mean_image)
  if config.augment.mean == 'channel':
    return jnp.broadcast_to(mean_image.mean((0, 1)), mean_image.shape)
  return mean_image


def _mean_of_crop(
  config: FrozenConfigDict, mean: Array, top: Array, left: Array, mirrored: Array
) -> Array:
  """Returns the part of the mean that is subtracted from a crop at (top, left), `[S, S, 3]`."""
  size = config.model.input_size
  if config.augment.mean_at == 'centre' or config.augment.mean != 'image':
    margin = (mean.shape[0] - size) // 2
    return mean[margin : margin + size, margin : margin + size]
  return _mirror(_cut(mean, top, left, size), mirrored)


def colour_noise(keys: Array, strength: Array | float, statistics: Statistics) -> Array:
  """Draws the colour noise of the paper (section 4.1), one colour for each row.

  It is `eigenvectors @ (deviations * strength * N(0, 1))`. A deviation is the square root of an eigenvalue,
  as in the original code; the paper's formula has the eigenvalue itself (FACTS section 3).

  Args:
    keys: random keys, `[B]`.
    strength: multiplies the noise.
    statistics: of the training images.

  Returns:
    float32 `[B, 3]`, in grey levels.
  """
  draws = jax.vmap(lambda key: jax.random.normal(key, (3,), jnp.float32))(keys)
  return (draws * statistics.deviations * strength) @ statistics.eigenvectors.T


def _resized_crop(canvases: Array, keys: Array, size: int) -> Array:
  """Applies torchvision's RandomResizedCrop; returns float32 `[B, size, size, 3]`, antialiased.

  A side that is drawn larger than the canvas is cut to it. torchvision draws again instead.
  """
  side = canvases.shape[1]

  def one(canvas, key):
    area, aspect, top, left = jax.random.uniform(key, (4,))
    area = side * side * (_AREA[0] + area * (_AREA[1] - _AREA[0]))
    low, high = map(math.log, _ASPECT)
    aspect = jnp.exp(low + aspect * (high - low))
    height = jnp.minimum(jnp.sqrt(area / aspect), side)
    width = jnp.minimum(jnp.sqrt(area * aspect), side)
    corner = jnp.stack([top * (side - height), left * (side - width)])
    scale = size / jnp.stack([height, width])
    return jax.image.scale_and_translate(
      canvas.astype(jnp.float32), (size, size, 3), (0, 1), scale, -corner * scale, 'linear'
    )

  return jax.vmap(one)(canvases, keys)


def train_images(
  canvases: Array,
  rows: Array,
  seed_key: Array,
  step: Array,
  colour: Array,
  statistics: Statistics,
  config: FrozenConfigDict,
) -> Array:
  """Augments the rows of a training batch.

  Args:
    canvases: uint8 `[B, C, C, 3]`.
    rows: int32 `[B]`, their indices in the global batch.
    seed_key: the root key of the run (`rng.seed_key`).
    step: int32 scalar.
    colour: float32 scalar, the strength of the colour noise; 0 after `augment.colour_until`.
    statistics: of the training images.
    config: the whole config; `augment` and `model.input_size` are used.

  Returns:
    float32 `[B, S, S, 3]`, where S is the input size of the network. A random crop starts at a pixel from 0
    to C - S in each direction; for C = 256 and S = 224 there are 33 x 33 x 2 crops, mirrored ones included.
  """
  settings = config.augment
  size = config.model.input_size
  margin = canvases.shape[1] - size

  def keys(purpose, chunk=1):
    return row_keys(rng.step_key(seed_key, step, purpose), rows // chunk)

  mirrored = jnp.zeros(rows.shape, bool)
  if settings.flip:
    mirrored = jax.vmap(jax.random.bernoulli)(keys(rng.FLIP, settings.chunk))
  if settings.crop == 'random':
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, margin + 1))
    tops, lefts = draw(keys(rng.CROP, settings.chunk)).T
  else:
    tops = lefts = jnp.full(rows.shape, margin // 2)
  resized = settings.crop == 'resized'
  if resized:
    canvases = _resized_crop(canvases, keys(rng.CROP, settings.chunk), size)
  noise = jnp.zeros((len(rows), 3))
  if settings.colour > 0:
    noise = colour_noise(keys(rng.COLOUR), colour, statistics)
  mean = _mean(config, jnp.asarray(statistics.mean_image))

  def augmented(canvas, top, left, mirrored, noise):
    crop = canvas if resized else _cut(canvas, top, left, size)
    image = _mirror(crop, mirrored).astype(jnp.float32)
    image -= _mean_of_crop(config, mean, top, left, mirrored)
    if settings.colour > 0:
      image += noise
      image /= jnp.where(colour > 0, settings.colour_divisor, 1.0)
    return image / jnp.asarray(settings.std, jnp.float32)

  return _for_each(augmented, canvases, tops, lefts, mirrored, noise)


def of_partners(array: Array) -> Array:
  """Exchanges the rows 0 and 1, 2 and 3, and so on: the partners of mixup. `[B, ...]`, B even."""
  return array.reshape(-1, 2, *array.shape[1:])[:, ::-1].reshape(array.shape)


def own_shares(
  mask: Array, rows: Array, seed_key: Array, step: Array, config: FrozenConfigDict
) -> Array:
  """Draws for mixup how much of its own image each row keeps; the rest is its partner's (Zhang et al., 2018).

  Args:
    mask: bool `[B]`, whether a row has an image. A row whose partner has none keeps its image.
    rows: int32 `[B]`, their indices in the global batch; the first one and B are even.
    seed_key: the root key of the run (`rng.seed_key`).
    step: int32 scalar.
    config: the whole config; `augment.mixup` is the parameter of the Beta distribution.

  Returns:
    float32 `[B]` from 0 to 1, equal for partners.
  """
  keys = row_keys(rng.step_key(seed_key, step, rng.MIXUP), rows // 2)
  parameter = jnp.float32(config.augment.mixup)
  shares = jax.vmap(lambda key: jax.random.beta(key, parameter, parameter))(keys)
  return jnp.where(of_partners(mask), shares, jnp.float32(1))


def mixed(images: Array, shares: Array) -> Array:
  """Mixes each image `[B, S, S, 3]` with that of its partner; `shares` are those of `own_shares`."""
  shares = shares[:, None, None, None].astype(images.dtype)
  return shares * images + (1 - shares) * of_partners(images)


def eval_images(canvases: Array, view: Array, mean_image: Array, config: FrozenConfigDict) -> Array:
  """Cuts one test view from every canvas.

  Args:
    canvases: uint8 `[B, C, C, 3]`.
    view: float32 `[3]`, an entry of `VIEWS`; a mirrored view has 1 as its last number, any other 0.
    mean_image: float32 `[C, C, 3]`.
    config: the whole config.

  Returns:
    float32 `[B, S, S, 3]`, without noise.
  """
  size = config.model.input_size
  margin = canvases.shape[1] - size
  top, left = jnp.floor(view[:2] * margin).astype(jnp.int32)
  mirrored = view[2] > 0
  mean = _mean_of_crop(config, _mean(config, mean_image), top, left, mirrored)

  def seen(canvas):
    image = _mirror(_cut(canvas, top, left, size), mirrored).astype(jnp.float32)
    return (image - mean) / jnp.asarray(config.augment.std, jnp.float32)

  return _for_each(seen, canvases)
