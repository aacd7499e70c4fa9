"""Collectives are parsed from HLO, the text form of compiled programs.

tests/distributed counts the collectives of whole training steps.
"""

from helpers import get
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest

from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.evaluation.collectives import collectives


@pytest.fixture(scope='module')
def mesh():
  return mesh_lib.make_mesh(get(mesh=(2, 2)))


@pytest.mark.parametrize(
  ('groups', 'axis'),
  [
    # These are lists of device numbers, as JAX 0.10.2 prints them.
    ('replica_groups={{0,1},{2,3}}, use', 'tower'),
    ('replica_groups={{0,2},{1,3}}, use', 'data'),
    ('replica_groups={{0,1,2,3}}, use', 'data+tower'),
    ('replica_groups={}, to_apply=%x', 'data+tower'),
    ('source_target_pairs={{0,2},{2,0},{1,3},{3,1}}', 'data'),
    # These are names of mesh axes, as JAX 0.12 prints them.
    ("replica_groups=mesh['data'=2,'tower'=2] {'tower'}, use", 'tower'),
    ("replica_groups=mesh['data'=2,'tower'=2] {'data'}, use", 'data'),
    ("replica_groups=mesh['data'=2,'tower'=2] {'data','tower'}, use", 'data+tower'),
  ],
)
def test_device_groups_are_parsed(mesh, groups, axis):
  line = f'  %x = f32[4]{{0}} all-reduce(%y), channel_id=1, {groups}'
  assert collectives(line, mesh) == [{'kind': 'all-reduce', 'axis': axis, 'bytes': 16}]


@pytest.mark.parametrize(
  'groups', ['replica_groups={{0},{1}}', "replica_groups=mesh['data'=1,'tower'=2] {'data'}"]
)
def test_groups_of_one_device_are_left_out(groups):
  mesh = mesh_lib.make_mesh(get(mesh=(1, 2)))
  assert collectives(f'%x = f32[4]{{0}} all-reduce(%y), {groups}', mesh) == []


@pytest.mark.parametrize(
  ('operation', 'kind', 'size'),
  [
    ('(f32[4]{0}, bf16[3,2]{1,0}) all-reduce(%y, %z)', 'all-reduce', 28),
    ('f32[4]{0} all-reduce-start(%y)', 'all-reduce', 16),
    ('(f32[4]{0}, f32[8]{0}) all-gather-start(%y)', 'all-gather', 32),
    ('pred[5]{0} all-to-all(%y)', 'all-to-all', 5),
    ('f32[] all-reduce(%y)', 'all-reduce', 4),
  ],
)
def test_bytes_of_tuples_and_asynchronous_collectives(mesh, operation, kind, size):
  """The done form of an asynchronous collective is not counted again."""
  hlo = f'%x = {operation}, replica_groups={{{{0,1}}}}\n%w = f32[8]{{0}} all-gather-done(%x)'
  assert collectives(hlo, mesh) == [{'kind': kind, 'axis': 'tower', 'bytes': size}]


def test_unknown_groups_are_an_error(mesh):
  with pytest.raises(ValueError, match='unknown way'):
    collectives('%x = f32[4]{0} all-reduce(%y), replica_groups=new[2]', mesh)


def test_collectives_of_the_installed_jax_are_parsed(mesh):
  """The test compiles a program with all kinds of collectives that occur in training steps."""

  def communicate(x):
    gathered = lax.all_gather(x, 'tower', axis=1, tiled=True)
    total = lax.psum(gathered.sum(), ('data', 'tower'))
    scattered = lax.psum_scatter(
      jnp.tanh(gathered) * total, 'tower', scatter_dimension=1, tiled=True
    )
    return scattered + lax.psum(x, 'data')

  spec = P('data', 'tower')
  step = jax.jit(sharding.shard_map(communicate, mesh, spec, spec))
  x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=jax.NamedSharding(mesh, spec))
  found = collectives(step.lower(x).compile().as_text(), mesh)
  assert sorted((row['kind'], row['axis'], row['bytes']) for row in found) == [
    ('all-gather', 'tower', 4 * 4 * 8),
    ('all-reduce', 'data', 4 * 4 * 4),
    ('all-reduce', 'data+tower', 4),
    ('reduce-scatter', 'tower', 4 * 4 * 4),
  ]
