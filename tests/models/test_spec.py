"""The descriptions of layers, and the functions that interpret layer names."""

from helpers import get
import pytest

from alexnet_jax.models import cifar, spec


def test_padding():
  assert spec.conv(8, 3, 1).padding == ((1, 1), (1, 1))
  assert spec.conv(8, 3, ((0, 3), (0, 3))).padding == ((0, 3), (0, 3))


@pytest.mark.parametrize(
  ('name', 'number', 'is_dense', 'is_local'),
  [('conv1', '1', False, False), ('local3', '3', False, True), ('fc10', '10', True, False)],
)
def test_layer_names_are_interpreted(name, number, is_dense, is_local):
  assert spec.number(name) == number
  assert spec.is_dense(name) == is_dense and spec.is_local(name) == is_local


def test_first_dense():
  assert spec.first_dense(get('paper+conv6').model) == 'fc6'


@pytest.mark.parametrize(
  ('features', 'width', 'towers', 'expected'),
  [(96, 1.0, 2, 48), (96, 1 / 16, 2, 3), (4096, 0.5, 1, 2048), (6, 1 / 16, 2, 1)],
)
def test_features_per_tower(features, width, towers, expected):
  assert spec.features_per_tower(features, width, towers) == expected


def test_replace_layers_keeps_other_keys():
  """Keys that do not describe a layer keep their values."""
  model = get('paper', model__dropout__rate=0.25).model
  spec.replace_layers(model, cifar.four_layers())
  assert model.layers == ('conv1', 'conv2', 'conv3', 'fc4')
  described = [name for name, entry in model.items() if spec.is_layer(entry)]
  assert sorted(described) == sorted(model.layers)
  assert model.dropout.rate == 0.25
