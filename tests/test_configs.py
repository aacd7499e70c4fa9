"""Every variant of every config file is described, builds at full size, and trains two steps when small."""

import functools
import importlib.util
import itertools
import re

import jax
from ml_collections import FrozenConfigDict
import numpy as np
import pytest
from tiny import ROOT, shrink

from alexnet_jax import config as config_lib
from alexnet_jax import models, steps
from alexnet_jax.config import recipes
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.interop import layout
from alexnet_jax.steps import optimizer, schedules

FILES = sorted((ROOT / 'configs').glob('*.py'))


def variants_of(path):
  """Returns the names of the variants of a config file: its own, or all recipes if it accepts any recipe."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  names = getattr(module, 'VARIANTS', None)
  if names is None:
    names = recipes.RECIPES if module.get_config.__defaults__ else ['']
  return list(names)


SPECS = [
  f'{path.relative_to(ROOT)}:{name}'.rstrip(':') for path in FILES for name in variants_of(path)
]


def test_the_readme_of_configs_names_every_file():
  """configs/README.md names each config file, and every variant that it names can be loaded."""
  text = (ROOT / 'configs' / 'README.md').read_text()
  for path in FILES:
    assert path.name in text
  file = None
  for name, variant in re.findall(r'`(\w+\.py)?:?([\w+]*)`', text):
    file = name or file
    if variant and file and f':{variant}`' in text:
      load(f'configs/{file}:{variant}')


def load(spec):
  """Loads the config `FILE:VARIANT`, where FILE is relative to the root of the checkout."""
  return config_lib.load_file(str(ROOT / spec))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_file_has_a_complete_header(path):
  """The header names the reproduced result, the command, the expected result, hardware and variants."""
  header = path.read_text().split('"""')[1]
  for part in ('Reproduces ', 'Command:', f'configs/{path.name}', 'Expected:', 'Hardware:'):
    assert part in header or (part == f'configs/{path.name}' and 'quickstart.sh' in header)
  if 'VARIANTS' in path.read_text():
    described = re.sub(r'no_conv2 \.\.\. 5', 'no_conv2 no_conv3 no_conv4 no_conv5', header)
    missing = [name for name in variants_of(path) if name not in described]
    assert not missing, missing
    with pytest.raises(UserError, match="unknown variant 'zzz': choose one of"):
      load(f'configs/{path.name}:zzz')


def test_the_expanded_config_is_current():
  """To update it, run: python main.py --mode=config --config=alexnet | python -m json.tool --indent=2"""
  expanded = (ROOT / 'configs' / 'expanded' / 'paper.json').read_text()
  assert expanded == config_lib.to_json(recipes.get('paper')) + '\n'


@functools.cache
def layer_table(model):
  """Returns the table of a frozen `config.model`, which many configs share."""
  return models.layer_table(model)


@pytest.mark.parametrize('spec', SPECS)
def test_every_config_is_valid_at_full_size(spec):
  """The config passes validation, its network can be built, and the layers that it names exist."""
  config = load(spec)
  config_lib.validate(config)
  rows = layer_table(FrozenConfigDict(config.model))
  assert rows[-1]['output'] == (config.model.num_classes or 1000,)
  back = config_lib.from_json(config_lib.to_json(config))
  config_lib.check_same_run(back, config, 'a workdir')


def test_overrides_are_applied_after_the_settings_of_a_file():
  for file in ('quickstart', 'elpv_defect', 'photos'):
    assert load(f'configs/{file}.py:original+plateau').optim.schedule == 'plateau'
    large = load(f'configs/{file}.py:original+large_batch')
    assert large.train.batch_size == 1024 and schedules.batch_factor(large, epoch=9.0) == 32
    assert load(f'configs/{file}.py:owt').optim.schedule == 'steps'
    caffe = load(f'configs/{file}.py:caffe')
    assert (caffe.optim.unit, caffe.train.batch_size) == ('epoch', 32)
  assert load('configs/cats_vs_dogs.py:fine_tune+dexp').train.epochs == 95


def manual(first, second, conv1_low, frozen, third):
  """Returns the rows of SCHEDULES for rates that the authors lowered by hand.

  All rates drop in the epochs `first`, `second` and `third`. Those of conv1 also drop in `conv1_low`, and
  conv1 is frozen from `frozen` on.
  """
  halfway = (
    (conv1_low, 1e-5, 1e-4, 1e-4, 1e-4, 0.002, 0.02),
    (frozen, 0, 1e-4, 1e-4, 1e-4, 0, 0.02),
  )
  return (
    (0, 1e-2, 1e-2, 1e-2, 1e-2, 0.02, 0.02),
    (first, 1e-3, 1e-3, 1e-3, 1e-3, 0.02, 0.02),
    (second, 1e-4, 1e-4, 1e-4, 1e-4, 0.02, 0.02),
    *halfway[: 2 if conv1_low < frozen < third else 1],
    (third, 0, 1e-5, 1e-5, 1e-5, 0, 0.02),
  )


# Maps a config to (rows, epoch in which colour noise ends, last epoch), as in docs/FACTS.md sections 2 and 4.
# A row has the epoch from which its rates hold, the rates of the weights of conv1, conv2, fc6 and the last
# layer, and the rates of the biases of conv1 and fc6.
SCHEDULES = {
  'ilsvrc2010:cnn': (manual(23, 51, 68, 72, 78), 68, 93),
  'ilsvrc2010:one_gpu': (manual(20, 48, 66, 72, 79), 66, 96),
  'ablations:base': (manual(25, 51, 67, 72, 79), 67, 91),
  'ablations:no_norm': (manual(22, 44, 69, 73, 86), 69, 97),
  'ablations:no_overlap': (manual(23, 51, 67, 79, 79), 67, 90),
  'ablations:no_communication': (manual(25, 49, 66, 72, 79), 66, 92),
  'ilsvrc2012:dexp': (
    (
      (0, *(4 * [0.01]), 0.02, 0.02),
      # At the boundary itself, 23.75, the old rate still holds.
      (23.750005, *(4 * [0.01 / 250 ** (1 / 3)]), 0.02, 0.02),
      (47.500005, *(4 * [0.01 / 250 ** (2 / 3)]), 0.002, 0.002),
      (71.250005, *(4 * [0.01 / 250]), 0.002, 0.002),
    ),
    0,
    95,
  ),
  'fall2009': (
    (
      (0, 1e-2, 1e-2, 1e-2, 1e-2, 0.02, 0.02),
      (6.26, 1e-3, 1e-3, 1e-3, 1e-3, 0.02, 0.02),
      (13.34, 1e-4, 1e-4, 1e-4, 1e-4, 0.02, 0.02),
      (18.24, 1e-5, 1e-5, 1e-4, 1e-4, 0.002, 0.02),
      (21.19, 1e-6, 1e-6, 1e-5, 1e-5, 0.002, 0.02),
      (25.37, 1e-7, 1e-7, 1e-6, 1e-6, 0.002, 0.02),
    ),
    18.24,
    28.3,
  ),
  'cnn_star:2009': (
    ((0, 1e-3, 1e-3, 1e-2, 1e-2, 0.002, 0.02), (2.16, 1e-3, 1e-3, 1e-3, 1e-3, 0.002, 0.002)),
    0,
    6.65,
  ),
  'cnn_star:2011': (
    ((0, 1e-3, 1e-3, 1e-2, 1e-2, 0.002, 0.02), (6, 1e-3, 1e-3, 1e-3, 1e-3, 0.002, 0.002)),
    0,
    8.1,
  ),
  'cnn_star:2012': (
    (
      (0, 1e-4, 1e-3, 1e-3, 1e-3, 2e-4, 0.002),
      (0.029973, 1e-4, 1e-3, 1e-3, 1e-2, 2e-4, 0.002),  # after 300 batches of 1,281,167 images
      (5, 1e-5, 1e-3, 1e-3, 1e-2, 2e-5, 0.002),
      (7, 0, 1e-3, 1e-3, 1e-2, 0, 0.002),
      (9, 0, 1e-3, 1e-3, 1e-3, 0, 0.002),
      (22, 0, 1e-4, 1e-4, 1e-4, 0, 0.002),
      (42, 0, 1e-5, 1e-5, 1e-5, 0, 0.002),
    ),
    38,
    54,
  ),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_change_in_the_documented_epochs(name):
  """Each row holds from its epoch until just before the epoch of the next row."""
  rows, colour_until, end = SCHEDULES[name]
  file, _, variant = name.partition(':')
  config = load(f'configs/{file}.py:{variant}'.rstrip(':'))
  assert (config.augment.colour_until, config.train.epochs) == (colour_until, end)
  params = {layer: {'kernel': 0, 'bias': 0} for layer in config.model.layers}
  weights, biases = ('conv1', 'conv2', 'fc6', config.model.layers[-1]), ('conv1', 'fc6')
  for (start, *expected), (until, *_) in itertools.pairwise((*rows, (end,))):
    for epoch in (start, until - 1e-5):
      now = schedules.rates(config.optim, 0, epoch, epoch / end, schedules.ScheduleState())
      tree = optimizer.rate_tree(config.optim, params, *now, epoch)
      found = [tree[layer]['kernel'] for layer in weights]
      found += [tree[layer]['bias'] for layer in biases]
      assert found == pytest.approx(expected), epoch


def small(spec):
  """Returns the config of `spec` for a small network with one tower.

  Crops, flips, colour noise and dropout are off, because compilation dominates the time of these tests. Other
  tests cover them.
  """
  config = shrink(load(spec))
  return recipes.apply(
    config,
    {
      'model.towers': 1,
      'model.num_classes': 4,
      'augment.crop': 'centre',
      'augment.flip': False,
      'augment.colour': 0.0,
      'model.dropout.rate': 0.0,
      'train.batch_size': 2,
    },
  )


def program(config):
  """Returns a key for all values of a small config on which its compiled training step depends."""
  layers, augment = config.model.layers, config.augment.to_dict() | {'colour_until': 0}
  optimizer = [
    config.optim[key] for key in ('momentum', 'decay', 'layer_decay', 'bias_decay', 'ema')
  ]
  sizes = config.model.input_size, config.data.canvas.size, config.train.batch_size
  features = [config.model[layer].get('features') for layer in layers]
  return repr((layout.function_of(config.model), features, sizes, augment, optimizer))


STEPS = {}  # maps the result of `program` to a compiled step


@pytest.mark.parametrize('spec', SPECS)
def test_trains_two_steps(spec):
  """With the first rates of the config, the loss is finite and exactly the layers with a rate above 0 change.

  Configs with equal programs share one compiled step.
  """
  config = FrozenConfigDict(small(spec))
  mesh = mesh_lib.make_mesh(config)
  size, draw = config.data.canvas.size, np.random.default_rng(0)
  state = jax.tree.map(
    lambda leaf: jax.device_put(draw.normal(0, 0.1, leaf.shape).astype(leaf.dtype), leaf.sharding),
    steps.abstract_state(config, mesh),
  )
  before = jax.device_get(state.params)
  batch = {
    'image': draw.integers(0, 256, (2, size, size, 3), np.uint8),
    'label': draw.integers(0, 4, 2, np.int32),
    'mask': np.ones(2, bool),
    'index': np.arange(2, dtype=np.int32),
  }
  batch = sharding.shard_batch(mesh, batch)
  mean = np.full((size, size, 3), 120)
  statistics = Statistics(*map(np.float32, (mean, np.eye(3), np.ones(3))))
  now = schedules.rates(config.optim, 0, 0.0, 0.0, schedules.ScheduleState())
  rates = optimizer.rate_tree(config.optim, before, *now, epoch=0.0)
  inputs = sharding.replicate(mesh, jax.tree.map(np.float32, (rates, 0.0, statistics)))
  key = program(config)
  if key not in STEPS:
    STEPS[key] = (
      steps.make_train_step(config, mesh)
      .lower(state, batch, *inputs)
      .compile({'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True})
    )
  for _ in range(2):
    state, loss = STEPS[key](state, batch, *inputs)
  assert np.isfinite(loss)
  for layer in config.model.layers:
    moved = np.any(before[layer]['kernel'] != np.asarray(state.params[layer]['kernel']))
    assert moved == bool(rates[layer]['kernel']), layer


def test_an_override_changes_a_variant_of_cats_and_dogs():
  plain, changed = (load(f'configs/cats_vs_dogs.py:{name}') for name in ('scratch', 'scratch+tanh'))
  assert (plain.model.activation, changed.model.activation) == ('relu', 'tanh')
  assert plain.optim == changed.optim and plain.train == changed.train
