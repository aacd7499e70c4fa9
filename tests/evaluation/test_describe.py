"""The neurons of a network, and the messages between devices read out of compiled programs."""

from helpers import get
import pytest

from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.evaluation import describe


@pytest.mark.parametrize(
  ('written', 'groups'),
  [
    ('replica_groups={{0,1},{2,3}}, use', [[0, 1], [2, 3]]),
    ('replica_groups={}, to_apply=%x', [[0, 1, 2, 3]]),
    ('replica_groups=[2,2]<=[4], use', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[2,2]T(1,0), use', [[0, 2], [1, 3]]),
    ("replica_groups=mesh['data'=2,'tower'=2] {'tower'}, use", [[0, 1], [2, 3]]),  # jax 0.12
    ("replica_groups=mesh['data'=2,'tower'=2] {'data'}, use", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['data'=2,'tower'=2] {'data','tower'}, use", [[0, 1, 2, 3]]),
    ('source_target_pairs={{0,1},{1,0}}', [[0, 1, 1, 0]]),
  ],
)
def test_all_ways_of_writing_groups(written, groups):
  line = f'  %x = f32[4]{{0}} all-reduce(%y), channel_id=1, {written}'
  assert describe._replica_groups(line, 4) == groups


def test_neurons():
  """The paper's 650,000 and a sixth convolution: what layers give, not what pools and norms make of it."""
  model = recipes.get('paper+batch_norm+conv6').model
  layers = 290_400 + 186_624 + 64_896 + 64_896 + 43_264 + 4096 + 4096 + 1000
  assert layers == 659_272
  assert describe.neurons(model, models.layer_table(model)) == layers + 6 * 6 * 256


def test_groups_that_cannot_be_read_are_not_passed_over():
  mesh = mesh_lib.make_mesh(get(mesh=(2, 2)))
  with pytest.raises(ValueError, match='unknown way'):
    describe.collectives('%x = f32[4]{0} all-reduce(%y), replica_groups=new[2]', mesh)
