"""Crops, flips, means, colour noise and test views, checked on canvases whose pixels encode their position.

P is the paper and O is the original code (docs/FACTS.md).
"""

import functools

from helpers import get, relative_error
import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict
import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.steps import augment, rng

# The colour statistics of ILSVRC-2012 in cuda-convnet2 (FACTS section 3). Columns are eigenvectors, rows RGB.
EIGENVECTORS = np.array(
  [[0.41796, -0.71258, -0.56351], [-0.81698, -0.02354, -0.57618], [0.39731, 0.70120, -0.59200]],
  np.float32,
)
DEVIATIONS = np.array([19.7208, 37.0939, 121.7801], np.float32)
COLOUR = 0.1


def statistics(side, mean=True, seed=0):
  """Returns a random mean image and the colour statistics of ILSVRC-2012."""
  random = np.random.default_rng(seed).uniform(80, 150, (side, side, 3))
  return Statistics(np.float32(random if mean else 0 * random), EIGENVECTORS, DEVIATIONS)


def configure(variant='paper', size=224, canvas=256, **overrides):
  overrides = {'model__input_size': size, 'data__canvas__size': canvas, **overrides}
  return FrozenConfigDict(get(variant, **overrides))


# Without noise and mean, the pixels of the canvas are not changed.
PLAIN = {'augment__mean': 'none', 'augment__colour': 0.0}


def position_canvases(batch, side):
  """Returns canvases whose pixels are (row, column, number of the canvas)."""
  rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing='ij')
  canvases = [np.stack([rows, columns, np.full_like(rows, n)], -1) for n in range(batch)]
  return np.array(canvases, np.uint8)


@functools.cache
def augmenter(config):
  """Returns a compiled `f(canvases, rows, seed, step, colour, statistics)` that returns the images."""

  def call(canvases, rows, seed, step, colour, stats):
    return augment.train_images(canvases, rows, rng.seed_key(seed), step, colour, stats, config)

  return jax.jit(call, static_argnums=2)


def train_images(config, canvases, rows=None, seed=0, step=0, colour=COLOUR, stats=None):
  rows = np.arange(len(canvases)) if rows is None else rows
  stats = stats or statistics(canvases.shape[1])
  return np.asarray(augmenter(config)(canvases, rows, seed, step, np.float32(colour), stats))


def decode(images):
  """Returns (top, left, mirrored) for every crop of `position_canvases`, and checks all its pixels."""
  found = []
  size = images.shape[1]
  for image in images:
    top, mirrored = int(image[0, 0, 0]), bool(image[0, 0, 1] > image[0, -1, 1])
    left = int(image[0, -1 if mirrored else 0, 1])
    expected = np.stack(
      np.meshgrid(top + np.arange(size), left + np.arange(size), indexing='ij'), -1
    )
    np.testing.assert_array_equal(image[..., :2], expected[:, ::-1] if mirrored else expected)
    found.append((top, left, mirrored))
  return found


@pytest.mark.parametrize(('canvas', 'size'), [(256, 224), (256, 227), (32, 24)])
def test_crops_have_all_positions(canvas, size):
  """All positions on both axes and both mirror states occur, and no others (FACTS section 3)."""
  config = configure(size=size, canvas=canvas, **PLAIN)
  canvases = position_canvases(1, canvas).repeat(32, 0)
  found = []
  for step in range(16):  # of 512 crops, the probability to miss one of 33 positions is 5e-6
    found += decode(train_images(config, canvases, step=step))
  tops, lefts, mirrored = (np.array(column) for column in zip(*found, strict=True))
  margin = canvas - size
  assert set(tops) == set(lefts) == set(range(margin + 1))
  for column in (tops, lefts):  # uniform: the mean is half the margin, within 4 standard errors
    deviation = np.sqrt(((margin + 1) ** 2 - 1) / 12 / len(column))
    assert abs(column.mean() - margin / 2) < 4 * deviation
  assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(mirrored))
  # Rows, columns and mirror states are drawn independently.
  correlation = np.corrcoef([tops, lefts, mirrored]) - np.eye(3)
  assert np.abs(correlation).max() < 4 / np.sqrt(len(tops))


def test_chunks_share_crop_and_flip():
  """The original code drew one crop position and one flip for 32 consecutive images (FACTS section 3)."""
  config = configure('paper+chunk_crops', 24, 32, **PLAIN)
  corners = train_images(config, position_canvases(128, 32))[:, 0, 0, :2]
  chunks = corners.reshape(4, 32, 2)
  assert (chunks == chunks[:, :1]).all()
  assert len({tuple(chunk) for chunk in chunks[:, 0]}) > 1
  each = train_images(configure('paper', 24, 32, **PLAIN), position_canvases(128, 32))[:, 0, 0, :2]
  assert len({tuple(corner) for corner in each}) > 32


@pytest.mark.parametrize('mean_at', ['crop', 'centre'])
def test_the_mean_image_is_subtracted(mean_at):
  """The mean is cropped and mirrored with the image (P and Caffe), or cropped at the centre only (O)."""
  canvases = np.random.default_rng(1).integers(0, 256, (8, 256, 256, 3), np.uint8)
  stats = statistics(256)
  config = configure(augment__colour=0.0, augment__mean_at=mean_at)
  images = train_images(config, canvases, stats=stats)
  where = decode(train_images(configure(**PLAIN), position_canvases(8, 256)))
  assert len({mirrored for *_, mirrored in where}) == 2
  for image, canvas, (top, left, mirrored) in zip(images, canvases, where, strict=True):
    crop = canvas[top : top + 224, left : left + 224].astype(np.float32)
    mean = stats.mean_image[top : top + 224, left : left + 224]
    if mirrored:
      crop, mean = crop[:, ::-1], mean[:, ::-1]
    if mean_at == 'centre':
      mean = stats.mean_image[16:240, 16:240]
    np.testing.assert_allclose(image, crop - mean, atol=1e-4)


def test_normalisation_by_channel():
  """torchvision normalises with one mean and one standard deviation for each channel."""
  stats = statistics(32)
  plain = configure('torchvision', 24, 32, augment__crop='random')
  pixels = configure(
    'torchvision', 24, 32, augment__crop='random', augment__mean='none', augment__std=(1, 1, 1)
  )
  canvases = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
  expected = train_images(pixels, canvases) - stats.mean_image.mean((0, 1))
  expected /= np.array([0.229, 0.224, 0.225]) * 255
  np.testing.assert_allclose(train_images(plain, canvases, stats=stats), expected, atol=1e-5)


def test_augmentation_can_be_switched_off():
  """All images are then the central crop without flip and noise, for any step, row and seed."""
  config = configure(size=227, augment__crop='centre', augment__flip=False, **PLAIN)
  images = train_images(config, position_canvases(3, 256), seed=5, step=7)
  assert decode(images) == [(14, 14, False)] * 3  # of the margin of 29, the smaller half is above


# --- colour noise


def test_the_distribution_of_colour_noise():
  """The deviations are 7.4, 7.2 and 7.7 grey levels (FACTS section 3).

  The covariance is that of the pixels times 0.01.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng.seed_key(0), jnp.arange(20_000))
  stats = statistics(8)
  noise = np.asarray(jax.jit(augment.colour_noise)(keys, COLOUR, stats))
  assert noise.shape == (20_000, 3)
  np.testing.assert_allclose(noise.std(0), [7.4, 7.2, 7.7], rtol=0.02)
  expected = COLOUR**2 * EIGENVECTORS @ np.diag(DEVIATIONS**2) @ EIGENVECTORS.T
  assert relative_error(np.cov(noise.T), expected) < 0.03
  assert np.abs(noise.mean(0)).max() < 4 * 7.7 / np.sqrt(20_000)


@pytest.mark.parametrize(
  ('variant', 'deviations', 'divisor'),
  [('paper', (7.4, 7.2, 7.7), 1.0), ('original', (6.73, 6.55, 7.00), 1.1)],
)
def test_all_pixels_of_an_image_have_the_same_noise(variant, deviations, divisor):
  """O divides image and noise by 1.1. If the noise is off, neither noise nor division applies."""
  config = configure(variant, 4, 8)
  canvases = np.full((4096, 8, 8, 3), 200, np.uint8)
  stats = statistics(8)._replace(mean_image=np.full((8, 8, 3), 120, np.float32))
  images = train_images(config, canvases, stats=stats)
  noise = images - 80 / divisor
  np.testing.assert_allclose(images, np.broadcast_to(images[:, :1, :1], images.shape), atol=1e-4)
  np.testing.assert_allclose(noise[:, 0, 0].std(0), deviations, rtol=0.04)
  assert len(np.unique(noise[:, 0, 0, 0])) > 4000
  off = train_images(config, canvases[:8], stats=stats, colour=0.0)
  np.testing.assert_array_equal(off, np.full_like(off, 80))


# --- what random draws depend on


@pytest.mark.parametrize('variant', ['original', 'torchvision'])
def test_rows_keep_their_draws(variant):
  """Draws depend on seed, step and row in the global batch, but not on the rows of this batch."""
  config = configure(variant, 24, 32)
  canvases = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8).repeat(8, 0)
  images = train_images(config, canvases)
  assert len({image.tobytes() for image in images}) == 8  # rows differ
  for rows in ([6, 1, 3], [5]):
    some = train_images(config, canvases[rows], rows=np.array(rows))
    np.testing.assert_allclose(some, images[rows], atol=1e-4)
  for other in ({'step': 1}, {'seed': 1}, {'rows': np.arange(8) + 8}):
    changed = train_images(config, canvases, **other)
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(changed, images, strict=True)), other


def test_crops_flips_and_noise_have_independent_keys():
  """Crops stay the same if flips are switched off, and flips if crops are."""
  canvases = position_canvases(16, 256)
  plain = decode(train_images(configure(**PLAIN), canvases))
  unflipped = decode(train_images(configure(augment__flip=False, **PLAIN), canvases))
  assert unflipped == [(top, left, False) for top, left, _ in plain]
  central = decode(train_images(configure(augment__crop='centre', **PLAIN), canvases))
  assert central == [(16, 16, mirrored) for *_, mirrored in plain]


# --- mixup


def own_shares(rows, mixup=0.4, mask=None):
  mask = np.ones(len(rows), bool) if mask is None else mask
  config = configure(augment__mixup=mixup)
  key = rng.seed_key(0)
  return np.asarray(augment.own_shares(jnp.asarray(mask), rows, key, 3, config))


@pytest.mark.parametrize('mixup', [0.2, 1.0])
def test_mixup_draws_one_share_for_each_pair(mixup):
  shares = own_shares(np.arange(8192), mixup)
  np.testing.assert_array_equal(shares[::2], shares[1::2])
  deviation = (1 / (8 * mixup + 4)) ** 0.5  # of Beta(mixup, mixup)
  assert shares.mean() == pytest.approx(0.5, abs=4 * deviation / 4096**0.5)
  assert shares.std() == pytest.approx(deviation, rel=0.05)
  np.testing.assert_array_equal(own_shares(np.arange(4096, 8192), mixup), shares[4096:])


def test_mixup_leaves_an_image_whose_partner_is_missing():
  mask = np.array([True, False, True, True])
  shares = own_shares(np.arange(4), mask=mask)
  assert shares[0] == 1 and 0 < shares[2] == shares[3] < 1
  images = np.random.default_rng(0).uniform(size=(4, 5, 5, 3)).astype(np.float32)
  mixed = np.asarray(augment.mixed(jnp.asarray(images), jnp.asarray(shares)))
  np.testing.assert_array_equal(mixed[0], images[0])
  for row, partner in ((2, 3), (3, 2)):
    expected = shares[2] * images[row] + (1 - shares[2]) * images[partner]
    np.testing.assert_allclose(mixed[row], expected, rtol=1e-6)


# --- torchvision's RandomResizedCrop

RESIZED = {'augment__crop': 'resized', 'augment__flip': False, **PLAIN}


def test_resized_crops_have_the_documented_area_and_aspect():
  """The area is 8 to 100 % of the canvas, the aspect ratio 3/4 to 4/3, and no crop exceeds the canvas.

  The pixels of the canvas are linear in their position, so that the slope of a crop gives its size.
  """
  side, size = 200, 50
  canvases = position_canvases(1, side).repeat(400, 0)
  images = train_images(configure(size=size, canvas=side, **RESIZED), canvases)
  assert images.shape == (400, size, size, 3)
  assert images.min() >= 0 and images.max() <= side - 1 + 1e-3
  middle = slice(12, size - 12)  # the filter is clipped near the border
  steps = size - 25
  rows, columns = images[:, middle, size // 2, 0], images[:, size // 2, middle, 1]
  height = (rows[:, -1] - rows[:, 0]) / steps * size
  width = (columns[:, -1] - columns[:, 0]) / steps * size
  area, aspect = height * width / side**2, width / height
  # After antialiasing the slope is exact to 1 %.
  assert 0.08 * 0.99 < area.min() < 0.12 and 0.88 < area.max() < 1.01
  assert 3 / 4 * 0.99 < aspect.min() < 0.77 and 1.3 < aspect.max() < 4 / 3 * 1.01
  # The distribution is uniform in area and in the logarithm of the aspect ratio, except that large oblong
  # crops do not fit.
  assert abs(area.mean() - 0.54) < 0.05
  assert abs(np.log(aspect).mean()) < 0.03
  # This is the centre of the crop. The centre of a pixel is half a pixel from its edge.
  centre = (rows[:, 0] + rows[:, -1]) / 2 + 0.5
  assert (centre - height / 2 > -0.1).all() and (centre + height / 2 < side + 0.1).all()
  free = height < 0.9 * side
  offset = ((centre - height / 2)[free] / (side - height[free])).round(2)
  assert 0 <= offset.min() < 0.05 and 0.95 < offset.max() <= 1


@pytest.mark.parametrize(('side', 'size'), [(32, 32), (64, 24), (24, 40)])
@pytest.mark.long
def test_a_resized_crop_of_the_whole_canvas_agrees_with_tensorflow(monkeypatch, side, size):
  """TensorFlow resizes with bilinear interpolation and antialiasing."""
  monkeypatch.setattr(augment, '_AREA', (1.0, 1.0))
  monkeypatch.setattr(augment, '_ASPECT', (1.0, 1.0))
  canvases = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), np.uint8)
  keys = jax.random.split(rng.seed_key(0), 2)
  found = augment._resized_crop(jnp.asarray(canvases), keys, size)
  expected = tf.image.resize(canvases, (size, size), method='bilinear', antialias=True)
  np.testing.assert_allclose(found, expected, atol=0.01)


# --- test views


@pytest.mark.parametrize(('canvas', 'size', 'half'), [(256, 224, 16), (256, 227, 14), (32, 24, 4)])
def test_ten_views(canvas, size, half):
  """The order is that of the original code (FACTS section 3).

  It is top left, top right, centre, bottom left, bottom right, and then the same five mirrored.
  """
  margin = canvas - size
  five = [(0, 0), (0, margin), (half, half), (margin, 0), (margin, margin)]
  expected = [(*corner, mirrored) for mirrored in (False, True) for corner in five]
  config = configure(size=size, canvas=canvas, **PLAIN)
  canvases, mean = position_canvases(2, canvas), jnp.zeros((canvas, canvas, 3))
  cut = jax.jit(lambda view: augment.eval_images(canvases, view, mean, config))
  found = []
  for view in augment.VIEWS[10]:
    first, second = decode(np.asarray(cut(jnp.asarray(view, jnp.float32))))
    assert first == second
    found.append(first)
  assert found == expected
  (centre,) = augment.VIEWS[1]
  assert decode(np.asarray(cut(jnp.asarray(centre, jnp.float32))))[0] == (half, half, False)
  nine = [decode(np.asarray(cut(jnp.asarray(view, jnp.float32))))[0] for view in augment.VIEWS[9]]
  steps = (0, half, margin)  # the nine views of the original code for CIFAR-10 (FACTS section 5)
  assert nine == [(top, left, False) for top in steps for left in steps]


@pytest.mark.parametrize('variant', ['paper', 'original', 'torchvision'])
def test_view_is_preprocessed_as_in_training(variant):
  """Mean and deviation are those of training, without colour noise and the division that belongs to it."""
  config = configure(variant, 24, 32)
  canvases = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
  mean = statistics(32).mean_image
  view = jnp.asarray((1.0, 0.0, True), jnp.float32)  # bottom left, mirrored
  found = augment.eval_images(jnp.asarray(canvases), view, mean, config)
  crop = canvases[:, 8:, :24][:, :, ::-1].astype(np.float32)
  expected = {
    'paper': lambda: crop - mean[8:, :24][:, ::-1],
    'original': lambda: crop - mean[4:28, 4:28],
    'torchvision': lambda: (crop - mean.mean((0, 1))) / (255 * np.array([0.229, 0.224, 0.225])),
  }[variant]()
  np.testing.assert_allclose(found, expected, atol=1e-4)
