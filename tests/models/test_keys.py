"""The declared keys of `config.model` agree with the network and with the functions that make layers."""

from helpers import get
import pytest

from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.models import keys, operations, spec
from alexnet_jax.utils import schema


def test_declared_values_are_those_of_the_network():
  assert keys.MODEL['activation'].choices == tuple(operations.ACTIVATIONS)


@pytest.mark.parametrize(
  ('kind', 'layer'),
  [
    (keys.CONV, spec.conv(8, 3, 1)),
    (keys.FC, spec.fc()),
    (keys.HEAD, spec.head()),
  ],
)
def test_every_key_of_a_layer_is_declared(kind, layer):
  assert set(kind) == set(layer)
  schema.check(layer, kind, 'layer')


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_every_key_of_a_recipe_is_declared(recipe):
  model = get(recipe).model
  declared = [name for name, _ in keys.flatten(model)]
  flat = [
    f'{name}.{key}' if hasattr(value, 'keys') else name
    for name, value in model.items()
    for key in (value if hasattr(value, 'keys') else [''])
  ]
  assert sorted(declared) == sorted(flat)
  keys.validate(model)


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('conv9', spec.conv(0, 3, 1), r'config\.model\.conv9\.features=0: must be .* at least 1'),
    ('layers', ('conv1', 'pool', 'fc8'), "names 'pool', but config.model does not describe"),
    ('layers', ('fc8', 'conv1'), r'config\.model\.fc8 has no features'),
    ('layers', (), 'a tuple of names'),
    ('layers', ('conv1', 'conv2', 'conv2', 'fc6', 'fc8'), "names 'conv2' twice"),
    ('layers', ('conv1', 'fc6', 'conv2', 'fc8'), 'conv2 cannot follow fc6'),
    ('fc6', spec.fc(then=('act', 'pool')), 'a tuple of at most 5 of act, norm, dropout'),
    ('conv1', spec.conv(8, 3, ((1, 1), 1)), r'must be \(\(top, bottom\), \(left, right\)\)'),
  ],
)
def test_invalid_layers_are_refused(key, value, message):
  model = get().model
  with model.ignore_type(), model.unlocked():
    model[key] = value
  with pytest.raises(UserError, match=message):
    keys.validate(model)


@pytest.mark.parametrize(
  ('variant', 'layer', 'then'),
  [
    ('original+batch_norm', 'conv1', ('norm', 'act', 'norm')),
    ('original+conv6+batch_norm', 'conv6', ('act', 'norm')),
  ],
)
def test_each_batch_normalisation_needs_a_number_of_its_own(variant, layer, then):
  config = get(variant, **{f'model__{layer}__then': then})
  with pytest.raises(
    UserError, match=f'{layer}.then=.*batch normalisation can follow a layer once'
  ):
    keys.validate(config.model)
  config.model.norm = 'lrn'
  keys.validate(config.model)
