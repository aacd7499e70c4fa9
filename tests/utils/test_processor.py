"""The processor has a name on every machine."""

import platform

from alexnet_jax.utils import processor


def test_the_name_comes_from_linux_or_else_from_platform(tmp_path, monkeypatch):
  monkeypatch.setattr(processor, 'CPUINFO', tmp_path / 'cpuinfo')
  assert processor.name() == (platform.processor() or platform.machine())
  processor.CPUINFO.write_text('processor\t: 0\nmodel name\t: Some CPU: 2\nmodel name\t: other\n')
  assert processor.name() == 'Some CPU: 2'
