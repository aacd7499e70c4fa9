"""The kernels of the first layer and their colour share agree with values computed by hand."""

import numpy as np
import pytest

from alexnet_jax.report import kernels


def test_colourfulness():
  """The colour share is 0 for gray, 1 for differences of channels, and 2/3 for random kernels."""
  rng = np.random.default_rng(0)
  gray = np.repeat(rng.normal(size=(11, 11, 1, 4)), 3, axis=2)
  opponent = rng.normal(size=(11, 11, 1, 4)) * np.array([1, -1, 0])[:, None]
  noise = rng.normal(size=(11, 11, 3, 400))
  np.testing.assert_allclose(kernels.colourfulness(gray), 0, atol=1e-12)
  np.testing.assert_allclose(kernels.colourfulness(opponent), 1)
  assert kernels.colourfulness(noise).mean() == pytest.approx(2 / 3, abs=0.01)
  assert not kernels.colourfulness(np.zeros((3, 3, 3, 2))).any()


def test_specialisation():
  """A gray and a coloured tower differ by more than chance; two random towers do not."""
  rng = np.random.default_rng(1)
  noise = rng.normal(size=(2, 11, 11, 3, 48)).astype(np.float32)
  apart = noise.copy()
  apart[0] = apart[0].mean(2, keepdims=True)

  def of(kernel):
    return kernels.specialisation({'conv1': {'kernel': kernel}})

  found = of(apart)
  assert found['colour'][0] < 1e-6 and found['difference'] > 3 * found['by_chance']
  assert of(noise)['difference'] < 2 * of(noise)['by_chance']
  assert set(of(noise[:1])) == {'colour'}


def test_kernel_picture():
  """Each kernel is at its position and scaled to its own range, with 0 at mid-gray."""
  kernel = np.zeros((3, 3, 3, 10), np.float32)
  kernel[0, 0, 0, 9], kernel[1, 1, 1, 9] = 0.5, -0.25
  sheet = kernels.picture(kernel)
  assert sheet.shape == (2 * 4 + 1, 8 * 4 + 1, 3)
  assert tuple(sheet[5, 5]) == (255, 128, 128)  # the tenth kernel: second row, second column
  assert tuple(sheet[6, 6]) == (128, 64, 128)
  assert kernels.picture(kernel[..., :2]).shape == (5, 9, 3)
