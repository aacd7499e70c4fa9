"""Layers are copied from a run or an archive; layers that do not fit are listed in an error."""

import jax
from ml_collections import FrozenConfigDict
import numpy as np
import pytest
from tiny import read_metrics, shrink, tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax import steps
from alexnet_jax.config import recipes
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.errors import UserError
from alexnet_jax.interop import exporter
from alexnet_jax.training import fine_tuning
from alexnet_jax.training.loop import train
from alexnet_jax.workdir.checkpoint import Checkpoints


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of six steps on four classes."""
  workdir = tmp_path_factory.mktemp('source')
  train(tiny_config(train__steps=6), workdir)
  return workdir


def parameters(workdir, step=None):
  """Returns the parameters of a checkpoint on the host; the newest checkpoint is the default."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.latest() if step is None else step
    config = checkpoints.meta(step)['config']
    abstract = steps.abstract_state(config, mesh_lib.make_mesh(config))
    return jax.device_get(checkpoints.restore_params(step, abstract)[0])


def fresh(config, new_state=steps.init_state):
  """Returns the parameters of a new train state with and without the layers that `config` copies.

  With `steps.abstract_state` the layers that are not copied have shapes only, and no network is initialised.
  """
  config.model.num_classes = config.data.synthetic.classes
  config = FrozenConfigDict(config)
  mesh = mesh_lib.make_mesh(config)
  state = new_state(config, mesh)
  return jax.device_get((fine_tuning.copy_layers(config, mesh, state).params, state.params))


@pytest.mark.parametrize(
  ('layers', 'mesh'),
  [('conv1,conv4', (2, 2)), pytest.param('', (1, 1), marks=pytest.mark.long)],
)
def test_layers_are_copied_by_name(trained, layers, mesh):
  """By default, all layers but the last are copied, on any mesh. Others keep their initial values."""
  config = tiny_config(
    init_from=str(trained), init_layers=layers, data__synthetic__classes=7, mesh=mesh
  )
  source = parameters(trained)
  params, drawn = fresh(config)
  copied = layers.split(',') if layers else [layer for layer in params if layer != 'fc8']
  for layer, leaves in params.items():
    for name, leaf in leaves.items():
      np.testing.assert_array_equal(leaf, (source if layer in copied else drawn)[layer][name])
  assert params['fc8']['bias'].shape == (7,)


def test_a_run_without_an_average_is_a_source_of_a_run_with_one(trained):
  few = {'model__layers': ('conv1', 'fc6', 'fc8'), 'init_layers': 'conv1'}
  config = tiny_config(init_from=str(trained), optim__ema=0.9, eval__weights='ema', **few)
  params, _ = fresh(config)
  np.testing.assert_array_equal(params['conv1']['kernel'], parameters(trained)['conv1']['kernel'])


def test_layers_are_copied_from_an_archive(trained, tmp_path):
  """The numbers equal those that are copied from the workdir."""
  path = str(tmp_path / 'weights.safetensors')
  exporter.export_network(tiny_config(), str(trained), 'safetensors', path)
  config = tiny_config(init_from=path)
  source = parameters(trained)
  params, _ = fresh(config, steps.abstract_state)
  np.testing.assert_array_equal(params['fc7']['kernel'], source['fc7']['kernel'])


def test_layers_of_another_function_are_warned_of(trained, caplog):
  """The function of layers that are not copied does not matter."""
  fresh(tiny_config(init_from=str(trained), model__fc8__bias=1.0), steps.abstract_state)
  assert 'for another network' not in caplog.text
  changes = {'model__lrn__k': 5.0, 'augment__mean': 'channel', 'model__conv5__then': ('act',)}
  layers = 'conv1,conv2'
  fresh(tiny_config(init_from=str(trained), init_layers=layers, **changes), steps.abstract_state)
  (line,) = [line for line in caplog.messages if 'is for another network than the config' in line]
  assert "config.augment.mean is 'channel', there 'image'; config.model.lrn.k is 5.0" in line
  assert 'conv5' not in line


@pytest.mark.long
@pytest.mark.parametrize(('variant', 'moves'), [('features', False), ('fine_tune', True)])
def test_shipped_configs_for_fine_tuning(trained, tmp_path, variant, moves):
  """Layers with rate 0 do not change, those with a tenth of the rate change little, and the last learns."""
  config = shrink(config_lib.load_file(f'configs/cats_vs_dogs.py:{variant}'))
  recipes.apply(config, {'init_from': str(trained), 'train.steps': 2, 'eval.baseline': False})
  train(config, tmp_path)
  source, tuned = parameters(trained), parameters(tmp_path)
  for layer in config.model.layers[:-1]:
    found, copied = tuned[layer]['kernel'], source[layer]['kernel']
    assert np.any(found != copied) == moves
    np.testing.assert_allclose(found, copied, atol=0.01)
  assert np.any(tuned['fc8']['kernel'] != source['fc8']['kernel'])
  rows = (tmp_path / 'metrics.jsonl').read_text()
  train(config, tmp_path)  # a resumed run reads its own checkpoint, not the source
  assert (tmp_path / 'metrics.jsonl').read_text() == rows and read_metrics(tmp_path)


@pytest.mark.parametrize('spec', ['cats_vs_dogs.py:features', 'cnn_star.py:2012'])
def test_layers_without_a_source_are_refused(spec, tmp_path):
  """The error is raised before anything is read or written."""
  config = shrink(config_lib.load_file(f'configs/{spec}'))
  with pytest.raises(UserError, match=r'init_layers=conv1,.*name the run with --config.init_from'):
    train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('variant', 'overrides', 'message'),
  [
    ('original', {'model__fc6__features': 2048}, r'fc6/bias is \[2, 128\] there, \[2, 64\] here.*fc7'),
    ('original+conv6', {}, r'conv6/kernel is missing there'),
    ('original+one_gpu', {}, r'conv1/kernel is \[2, 11, 11, 3, 3\] there, \[1, 11, 11, 3, 3\] here'),
    ('original', {'init_layers': 'conv1,conv9'}, "init_layers names 'conv9'"),
  ],
)  # fmt: skip
def test_layers_that_differ_are_listed(trained, tmp_path, variant, overrides, message):
  config = tiny_config(variant, init_from=str(trained), **overrides)
  with pytest.raises(UserError, match=message):
    train(config, tmp_path)


@pytest.mark.parametrize('source', ['nowhere', 'nowhere.safetensors', '.'])
def test_a_source_that_cannot_be_read_is_refused(source, tmp_path):
  with pytest.raises(
    UserError, match=r'config.init_from=nowhere.*no such f.*name the workdir|holds no'
  ):
    train(tiny_config(init_from=source), tmp_path)
