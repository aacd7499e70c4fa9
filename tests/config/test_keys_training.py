"""Invalid values of `augment`, `eval`, `train`, `report` and `serve` are refused by name."""

from helpers import get
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.config import keys_training
from alexnet_jax.errors import UserError
from alexnet_jax.steps import augment


@pytest.mark.parametrize(
  ('key', 'value', 'allowed'),
  [
    ('augment.crop', 'corner', 'one of random, resized, centre'),
    ('augment.mean', 'median', 'one of image, channel, none'),
    ('augment.mean_at', 'corner', 'one of crop, centre'),
    ('augment.chunk', 0, 'at least 1'),
    ('augment.std', (0.0, 1.0, 1.0), 'three numbers of more than 0'),
    ('augment.std', (1.0, 1.0), 'three numbers of more than 0'),
    ('augment.colour_divisor', 0.0, 'more than 0'),
    ('eval.views', 5, 'one of 1, 9, 10'),
    ('eval.train_views', 2, 'one of 1, 9, 10'),
    ('eval.weights', 'best', 'one of last, ema'),
    ('eval.batch_size', 0, 'from 1 to 1048576'),
    ('train.batch_size', 2**21, 'from 1 to 1048576'),
    ('train.log_every', 0, 'at least 1'),
    ('train.diagnose_every', -1, 'at least 0'),
    ('train.steps', -1, 'at least 0'),
    ('train.until_train_error', 100.0, 'less than 100'),
    ('train.profile', (2, 1), 'the first and the last step'),
    ('train.profile', (1,), 'the first and the last step'),
    ('train.profile', (0, 5), 'the first and the last step'),
    ('report.images', 0, 'at least 1'),
    ('report.bits', 1025, 'from 0 to 1024'),
    ('serve.max_mib', 0, 'at least 1'),
  ],
)
def test_invalid_values_are_refused(key, value, allowed):
  config = get(**{key.replace('.', '__'): value})
  with pytest.raises(UserError, match=rf'config\.{key}=.*: must be .*{allowed}'):
    config_lib.validate(config)


def test_allowed_views_are_those_of_the_augmentation():
  assert keys_training.EVAL['views'].choices == tuple(augment.VIEWS)


@pytest.mark.parametrize('window', [(0, 0), (1, 1), (101, 110)])
def test_valid_profile_windows_are_accepted(window):
  config_lib.validate(get(train__profile=window))
