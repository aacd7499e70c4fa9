"""The settings in a report, and their differences from the recipe."""

from alexnet_jax import config as config_lib
from alexnet_jax.config import recipes
from alexnet_jax.evaluation.loading import Trained
from alexnet_jax.report import settings


def test_differences_from_the_recipe():
  """A changed key is a difference; an unknown recipe is compared with `paper`."""
  config = config_lib.load_file('cifar10:relu')
  assert settings.differences(config) == ('cifar10:relu', [])
  config.optim.rate = 0.5
  assert settings.differences(config) == ('cifar10:relu', [('optim.rate', '0.5', '0.001')])
  config = recipes.get('original+no_norm')
  config.model.conv6.features = 3  # this network has no conv6
  assert settings.differences(config) == ('original+no_norm', [])
  config.recipe = 'mine'
  name, rows = settings.differences(config)
  assert name == 'paper' and ('model.norm', 'none', 'lrn') in rows


def test_whether_the_checkpoint_was_selected_on_the_images_of_the_report():
  """It is true only for the best checkpoint of a run that was evaluated on the same images."""
  config = config_lib.load_file('quickstart')

  def chosen(which='best', source='elpv', **errors):
    meta = {'config': config, 'validation': errors}
    trained = Trained(None, config, meta, 7, None, None)
    return settings.chosen_here(trained, which, source)

  evaluated = {'val/top1_error': 5.0}
  assert chosen(**evaluated)
  assert not chosen()
  assert not chosen('latest', **evaluated) and not chosen('7', **evaluated)
  assert not chosen(source='folder:others', **evaluated)
  config.data.source = 'folder:data/photos'  # the same folder by other paths
  assert chosen(source='folder:/home/me/data/photos/', **evaluated)
