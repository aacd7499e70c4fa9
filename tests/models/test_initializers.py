"""The initial weights of every recipe have the distributions of docs/FACTS.md section 1.5."""

from helpers import (
  get,
  narrow,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import models

NORMAL_INIT = {
  # Each recipe has the standard deviations and the biases of conv1 to conv5, fc6, fc7 and fc8.
  'paper': ((0.01,) * 8, (0, 1, 0, 1, 1, 1, 1, 0)),
  'original': ((0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01), (0, 1, 0, 1, 1, 1, 1, 0)),
  'caffe': ((0.01,) * 5 + (0.005, 0.005, 0.01), (0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0)),
  'owt': ((0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01), (0, 1, 0, 1, 1, 1, 1, -7)),
}


def initial_params(model, seed=0):
  image = jnp.zeros((1, model.input_size, model.input_size, 3))
  init = jax.jit(lambda key: models.create(model).init(key, image)['params'])
  return jax.device_get(init(jax.random.key(seed)))


@pytest.mark.parametrize('recipe', NORMAL_INIT)
def test_deviations_and_biases_of_the_normal_initializer(recipe):
  model = get(recipe).model
  assert model.init == 'normal'
  described = [(model[layer].std, model[layer].bias) for layer in model.layers]
  assert described == list(zip(*NORMAL_INIT[recipe], strict=True))


@pytest.mark.parametrize('recipe', NORMAL_INIT)
def test_weights_of_the_normal_initializer(recipe):
  params = initial_params(narrow(recipe, width=1 / 4, num_classes=1000))
  layers = get(recipe).model.layers
  assert set(params) == set(layers)
  deviations, biases = NORMAL_INIT[recipe]
  for layer, deviation, bias in zip(layers, deviations, biases, strict=True):
    kernel = params[layer]['kernel']
    error = 4 / np.sqrt(2 * kernel.size)  # four standard errors of the sample deviation
    np.testing.assert_allclose(kernel.std(), deviation, rtol=error, err_msg=layer)
    assert abs(kernel.mean()) < 4 * deviation / np.sqrt(kernel.size)
    # The distribution is not truncated: some draws lie beyond 3 standard deviations.
    assert np.abs(kernel).max() > 3 * deviation
    np.testing.assert_array_equal(params[layer]['bias'], np.float32(bias), err_msg=layer)
    if kernel.shape[0] == 2:
      assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize('towers', [1, 2])
def test_weights_of_the_torch_initializer(towers):
  """The distribution is U(-1/sqrt(fan_in), 1/sqrt(fan_in)); the fan-in does not count the tower axis."""
  model = narrow('torchvision', width=1 / 4, num_classes=1000, towers=towers)
  params = initial_params(model)
  assert params['conv1']['kernel'].shape[0] == towers
  for layer, leaves in params.items():
    # The fan-in counts the maps that an output depends on, which are those of both towers for conv3 and fc8.
    fan_in = np.prod(leaves['kernel'].shape[1:-1]) * (towers if layer == 'fc8' else 1)
    bound = 1 / np.sqrt(fan_in)
    for values in leaves.values():
      assert np.abs(values).max() <= bound, layer
      assert np.abs(values).max() > bound * (1 - 20 / values.size), layer
      error = 5 * bound / np.sqrt(3 * values.size)
      assert abs(values.mean()) < error, layer
      np.testing.assert_allclose(values.std(), bound / np.sqrt(3), atol=error, err_msg=layer)
