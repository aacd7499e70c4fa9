"""`--mode=prepare`: parts of the work, and mistakes."""

from data_helpers import contents, make_config, make_store_config
import pytest

from alexnet_jax.data import open_dataset
from alexnet_jax.data.prepare import prepare
from alexnet_jax.data.store import writer
from alexnet_jax.errors import UserError


def test_parts_of_a_job_array_make_the_same_store(tmp_path):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  expected = prepare(make_store_config(), str(whole))
  for k, shard in enumerate(('2/3', '3/3')):
    result = prepare(make_store_config(), str(parts), shard)
    assert result['shards_left'] == (5, 2)[k] and result['images'] is None
    with pytest.raises(UserError, match='not finished'):
      open_dataset(make_config(f'store:{parts}'), 0)
  result = prepare(make_store_config(), str(parts), '1/3')
  assert result == expected | {'store': str(parts), 'report': str(parts / 'report.json')}
  assert contents(parts) == contents(whole)


def test_shards_are_as_even_as_can_be():
  assert writer.part_of('0/4') == writer.part_of('4/4') == (0, 4)
  assert writer.part_of('') == (0, 1)


@pytest.mark.parametrize('shard', ['1', '4/3', '0/0', 'a/b', '-1/2'])
def test_invalid_shards(tmp_path, shard):
  with pytest.raises(UserError, match=f'--shard={shard}: write i/n'):
    prepare(make_store_config(), str(tmp_path / 'new'), shard)
