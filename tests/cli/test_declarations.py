"""The declarations of flags and modes fit together."""

from alexnet_jax.cli import declarations


def test_flags_name_modes_that_exist():
  for name, flag in declarations.FLAGS.items():
    assert set(flag.modes) <= set(declarations.MODES), name
    assert flag.text == flag.meaning or flag.text.startswith(f'{flag.modes[0]}'), name


def test_a_mode_uses_the_flags_that_it_requires():
  for mode, required in declarations.REQUIRED.items():
    for name in required:
      modes = declarations.FLAGS[name].modes
      assert not modes or mode in modes, (mode, name)
