"""Invalid values of `config.optim` are refused, and the error names the key."""

from helpers import get
import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError


@pytest.mark.parametrize(
  ('key', 'value', 'allowed'),
  [
    ('schedule', 'cosine', 'one of steps, plateau, dexp, constant'),
    ('unit', 'iteration', 'one of epoch, step'),
    ('rate', -0.1, 'at least 0'),
    ('bias_rate', -0.1, 'at least 0'),
    ('decay', -1.0, 'at least 0'),
    ('bias_decay', -1.0, 'at least 0'),
    ('momentum', 1.0, 'less than 1'),
    ('momentum', -0.1, 'at least 0'),
    ('ema', 1.0, 'less than 1'),
    ('warmup', -1.0, 'at least 0'),
    ('scaling.rule', 'cubic', 'one of auto, linear, sqrt, none'),
    ('scaling.batch', 0, 'at least 1'),
    ('dexp.levels', 1, 'at least 2'),
    ('dexp.bias_levels', 0, 'at least 2'),
    ('plateau.patience', 0, 'at least 1'),
    ('boundaries', (9.0, 3.0), 'ascending numbers'),
    ('boundaries', ('a',), 'ascending numbers'),
    ('boundaries', (float('nan'),), 'ascending numbers'),
    ('layer_decay', (('conv1',),), r'\(layer, decay\) pairs'),
    ('layer_decay', (('conv1', -1.0),), r'\(layer, decay\) pairs'),
    ('layer_rates', (('conv1', 67.0),), r'\(layer, epoch, factor\) triples'),
    ('layer_rates', ('conv1',), r'\(layer, epoch, factor\) triples'),
  ],
)
def test_invalid_values_are_refused(key, value, allowed):
  config = get(**{f'optim__{key.replace(".", "__")}': value})
  with pytest.raises(UserError, match=rf'config\.optim\.{key}=.*: must be .*{allowed}'):
    config_lib.validate(config)


def test_valid_values_are_accepted():
  config = get(
    optim__layer_decay=(('conv1', 0.0),),
    optim__layer_rates=(('conv1', 0.0, 0.0), ('fc8', 3, 10.0)),
    optim__boundaries=(3, 3.5),
  )
  config_lib.validate(config)
