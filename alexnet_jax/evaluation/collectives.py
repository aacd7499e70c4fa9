"""The collectives of a compiled step, read from the text of its HLO (XLA's intermediate language).

JAX gives no other access to them. The Python classes of a compiled module (`hlo_modules()` of a runtime
executable, in JAX 0.10.2 and 0.12.0) have opcodes and operands, but no replica groups. The lowered
program has them as MLIR attributes, but there XLA has not yet combined, added or removed collectives,
so it is not what the devices run.

XLA prints the devices that communicate in two ways. JAX 0.10.2 lists their numbers:
`replica_groups={{0,1},{2,3}}`. JAX 0.12 names the mesh axes: `replica_groups=mesh['data'=2,'tower'=2]
{'tower'}`.
"""

import math
import re

from jax.sharding import Mesh
import numpy as np

_COLLECTIVE = re.compile(
  r'= (?P<shape>.+?) (?P<kind>all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)'
  r'(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b(?:f|bf|s|u|pred)(\d*)\[([\d,]*)\]')  # element type and dimensions
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(?:\{([\d,]+)\}|\})')  # first group
_NAMED = re.compile(r'replica_groups=mesh\[[^\]]*\] \{([^}]*)\}')


def collectives(hlo: str, mesh: Mesh) -> list[dict[str, object]]:
  """Returns the collectives of a compiled program.

  Args:
    hlo: the program's text, `compiled.as_text()`. The device numbers in it count the mesh row by row.
    mesh: the mesh that the program runs on.

  Returns:
    For each collective `kind` (such as 'all-gather'), `axis` (a mesh axis, or several joined by '+')
    and `bytes` (of the result on one device). Collectives of one device are left out; an asynchronous
    pair of start and done counts once.

  Raises:
    ValueError: the devices that communicate are written in another way.
  """
  found = []
  for line in hlo.splitlines():
    match = _COLLECTIVE.search(line)
    axes = _axes(line, mesh) if match else []
    if match and axes:
      # An asynchronous collective has the shapes of its operands and results, but for all-reduce-start.
      with_operands = bool(match['start']) and match['kind'] != 'all-reduce'
      size = _bytes(match['shape'], with_operands)
      found.append({'kind': match['kind'], 'axis': '+'.join(axes), 'bytes': size})
  return found


def _axes(line: str, mesh: Mesh) -> list[str]:
  """Returns the mesh axes, of more than one device, along which a line of HLO communicates."""
  if named := _NAMED.search(line):
    names = re.findall(r"'(\w+)'", named[1])
    return [axis for axis in mesh.axis_names if axis in names and mesh.shape[axis] > 1]
  if listed := _LISTED.search(line):
    # All groups of a collective span the same axes, so the first one is enough; `{}` is one group of all.
    group = list(map(int, listed[1].split(','))) if listed[1] else range(mesh.size)
    coordinates = np.unravel_index(np.asarray(group), mesh.devices.shape)
    return [
      axis
      for axis, indices in zip(mesh.axis_names, coordinates, strict=True)
      if len(set(indices.tolist())) > 1
    ]
  raise ValueError(f'the replica groups are written in an unknown way: {line.strip()[:300]}')


def _bytes(shape: str, with_operands: bool) -> int:
  """Returns the bytes of an HLO shape: an array or a tuple, whose first half may be operands."""
  arrays = _ARRAY.findall(shape)
  if with_operands and len(arrays) > 1:
    arrays = arrays[len(arrays) // 2 :]
  return sum(
    math.prod(int(n) for n in dimensions.split(',') if n) * int(bits or 8) // 8
    for bits, dimensions in arrays
  )
