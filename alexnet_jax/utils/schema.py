"""Config keys declared once: the default value, the meaning and the allowed values of each.

A schema is a dictionary from names to `Key`s and to further schemas, nested as the config is. The default
values of a config, the check of its values, `--helpfull` and docs/CONFIG.md are all derived from it.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any, Union

from alexnet_jax.errors import UserError

Schema = Mapping[str, Union['Key', 'Schema']]

# Larger integers overflow the int32 arithmetic of steps and indices.
LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Key:
  """One key of a config. Its type is the type of its default value.

  Attributes:
    default: value in recipe `paper`.
    meaning: what the key does, in whole sentences.
    unit: unit of a number, such as `pixels` or `steps`.
    choices: the allowed values; empty where they are not listed.
    minimum: smallest allowed number.
    maximum: largest allowed number.
    above: bound that the number must exceed.
    below: bound that the number must stay under.
    valid: returns whether a value of the right type is allowed, for what bounds cannot express.
    expected: what `valid` accepts, in words that follow "must be".
  """

  default: Any
  meaning: str
  unit: str = ''
  choices: tuple = ()
  minimum: float | None = None
  maximum: float | None = None
  above: float | None = None
  below: float | None = None
  valid: Callable[[Any], bool] | None = None
  expected: str = ''

  @property
  def allowed(self) -> str:
    """Returns the allowed values in words that follow "must be", such as `a number of at least 0`."""
    if self.expected:
      return self.expected
    if self.choices:
      names = [str(choice) or "''" for choice in self.choices]
      return f'one of {", ".join(names)}'
    if isinstance(self.default, bool):
      return 'True or False'
    if isinstance(self.default, int | float):
      return self._allowed_numbers()
    return 'text'

  def _allowed_numbers(self) -> str:
    kind = 'a whole number' if isinstance(self.default, int) else 'a number'
    unit = f' ({self.unit})' if self.unit else ''
    if self.minimum is not None and self.maximum is not None:
      return f'{kind} from {self.minimum} to {self.maximum}{unit}'
    bounds = {
      'at least': self.minimum,
      'more than': self.above,
      'at most': self.maximum,
      'less than': self.below,
    }
    words = [f'{text} {bound}' for text, bound in bounds.items() if bound is not None]
    return f'{kind}{" of " if words else ""}{" and ".join(words)}{unit}'

  def accepts(self, value: Any) -> bool:
    """Returns whether `value` has the type of the default and is one of the allowed values."""
    if not self._has_type(value):
      return False
    if self.choices:
      return value in self.choices
    if isinstance(value, int | float) and not isinstance(value, bool) and not self._in_range(value):
      return False
    return self.valid is None or self.valid(value)

  def _has_type(self, value: Any) -> bool:
    if isinstance(self.default, bool) or isinstance(value, bool):
      return isinstance(self.default, bool) and isinstance(value, bool)
    if isinstance(self.default, float):
      return isinstance(value, int | float)
    if isinstance(self.default, tuple):
      return isinstance(value, tuple | list)
    return isinstance(value, type(self.default))

  def _in_range(self, value: float) -> bool:
    return (
      is_number(value)
      and (self.minimum is None or value >= self.minimum)
      and (self.above is None or value > self.above)
      and (self.below is None or value < self.below)
      and (abs(value) <= LARGEST if self.maximum is None else value <= self.maximum)
    )


def is_number(value: Any) -> bool:
  """Returns whether `value` is a finite int or float, and no bool."""
  if isinstance(value, bool):
    return False
  return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def defaults(schema: Schema) -> dict[str, Any]:
  """Returns the default values of all keys, nested as the schema is."""
  return {
    name: entry.default if isinstance(entry, Key) else defaults(entry)
    for name, entry in schema.items()
  }


def flatten(schema: Schema, prefix: str = '') -> Iterator[tuple[str, Key]]:
  """Yields each key with its dotted name, such as `plateau.patience`."""
  for name, entry in schema.items():
    if isinstance(entry, Key):
      yield f'{prefix}{name}', entry
    else:
      yield from flatten(entry, f'{prefix}{name}.')


def check(values: Any, schema: Schema, prefix: str) -> None:
  """Checks a config, or a part of one, against its schema; other keys of `values` are ignored.

  Args:
    values: a ConfigDict, a FrozenConfigDict or a dictionary.
    schema: the declarations of its keys.
    prefix: dotted name of the part, such as `config.data`, for messages.

  Raises:
    UserError: a key is missing, or its value is not allowed.
  """
  if not hasattr(values, 'keys'):
    raise UserError(f'{prefix}={values!r}: must be a group of the keys {", ".join(schema)}')
  for name, entry in schema.items():
    if name not in values:
      raise UserError(
        f'the config lacks the key {prefix}.{name}: start from a recipe of alexnet_jax.config.recipes'
      )
    value = values[name]
    if not isinstance(entry, Key):
      check(value, entry, f'{prefix}.{name}')
    elif not entry.accepts(value):
      largest = is_number(value) and entry.maximum is None and value > LARGEST
      allowed = f'at most {LARGEST}' if largest else entry.allowed
      raise UserError(f'{prefix}.{name}={value!r}: must be {allowed}')
