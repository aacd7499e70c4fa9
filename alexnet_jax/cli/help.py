"""Texts made of the declarations of config keys: those of --helpfull and docs/CONFIG.md."""

from collections.abc import Iterator, Sequence
import textwrap

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.config import keys, recipes
from alexnet_jax.models import keys as model_keys
from alexnet_jax.models.spec import is_layer
from alexnet_jax.utils import schema
from alexnet_jax.utils.schema import Key, Schema

_HEADER = """# Every config key

Set a key with `--config.KEY=VALUE` after the name of a config, as in `--config=quickstart --config.seed=1`.
The values below are those of recipe `paper`; other recipes and configs change some of them. `python main.py
--config=CONFIG --helpfull` prints this text with the values of a config, and `python main.py --mode=config
--config=CONFIG` prints the values alone.

This page is written by `python -m alexnet_jax.cli.help > docs/CONFIG.md` from the declarations in
`alexnet_jax/config/keys.py`."""

_GROUPS = {
  'model': 'the network',
  'data': 'the images',
  'prepare': 'how `--mode=prepare` writes a store',
  'augment': 'augmentation of training images',
  'optim': 'the update rule and the schedule',
  'train': 'the training loop',
  'eval': 'evaluation',
  'report': 'the page that `--mode=report` writes',
  'serve': 'limits of `--mode=serve`',
  'log': 'where metrics are written besides metrics.jsonl',
}


def _declared(config: ConfigDict | FrozenConfigDict) -> Iterator[tuple[str, object, Key | None]]:
  """Yields name, value and declaration of each key; keys that a config file adds have no declaration."""
  declared = dict(keys.flatten(config))
  for name, value in config_lib.flatten(config).items():
    yield name, value, declared.get(name)


def _described(key: Key | None) -> str:
  """Returns the meaning of a key and its allowed values, where they say more than its type."""
  if key is None:
    return ''
  limited = key.allowed not in ('text', 'True or False', 'a number', 'a whole number')
  return f'{key.meaning} It must be {key.allowed}.' if limited else key.meaning


def config_text(config: ConfigDict | FrozenConfigDict) -> str:
  """Returns every key with its value in `config`, its meaning and its allowed values, for a terminal."""
  lines = []
  for name, value, key in _declared(config):
    lines.append(f'  --config.{name}={value!r}')
    lines += textwrap.wrap(_described(key), 100, initial_indent=' ' * 8, subsequent_indent=' ' * 8)
  return '\n'.join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Returns a Markdown table."""
  cells = [[cell.replace('|', '\\|') for cell in row] for row in rows]
  return [f'| {" | ".join(row)} |' for row in (heads, ['---'] * len(heads), *cells)]


def _key_rows(group: Schema, prefix: str) -> list[tuple[str, ...]]:
  return [
    (f'`{name}`', f'`{key.default!r}`', key.meaning, key.allowed)
    for name, key in schema.flatten(group, prefix)
  ]


def _layer_tables(model: ConfigDict) -> Iterator[str]:
  """Yields the keys of each kind of layer as tables, and their values in each layer of `model`."""
  layers = {name: entry for name, entry in model.items() if is_layer(entry)}
  kinds = {
    'Convolutional and locally connected layers': model_keys.CONV,
    'Fully connected layers': model_keys.FC,
    'The last layer': model_keys.HEAD,
  }
  for title, kind in kinds.items():
    own = {n: e for n, e in layers.items() if model_keys.layer_keys(n, e) is kind}
    yield from ('', f'### {title}', '')
    rows = [
      (f'`model.LAYER.{name}`', key.meaning, key.allowed) for name, key in schema.flatten(kind)
    ]
    yield from _table(('key', 'meaning', 'allowed values'), rows)
    values = [(name, *(f'`{entry[key]!r}`' for key in kind)) for name, entry in own.items()]
    yield from ('', *_table(('layer', *kind), values))


def page() -> str:
  """Returns the text of docs/CONFIG.md."""
  heads = ('key', 'value', 'meaning', 'allowed values')
  single = {name: key for name, key in keys.KEYS.items() if isinstance(key, Key)}
  lines = [_HEADER, '', '## The whole run', '', *_table(heads, _key_rows(single, ''))]
  for name, title in _GROUPS.items():
    group = model_keys.MODEL if name == 'model' else keys.KEYS[name]
    assert not isinstance(group, Key)
    lines += ['', f'## `{name}`: {title}', '', *_table(heads, _key_rows(group, f'{name}.'))]
    if name == 'model':
      lines += _layer_tables(recipes.get('paper').model)
  return '\n'.join(lines)


if __name__ == '__main__':
  print(page())
