"""Winograd convolutions, which need fewer multiplications and compute them as products of large matrices.

A convolution with a kernel of `r` x `r` weights ("taps") is computed in tiles of `m` x `m` outputs. In each
direction, the outputs of a tile follow from the values of a product of polynomials at `a = m + r - 1` points
(Toom and Cook; Winograd 1980; Lavin and Gray, arXiv 1509.09308). A tile then needs `a * a` multiplications
for each pair of an input map and an output map; the definition of a convolution needs `m * m * r * r`. The
multiplications of all tiles form one batched matrix product, which XLA's CPU backend computes efficiently:

    V = B^T d B      transforms the data d of each tile, giving `[a * a, tiles, C]`
    U = G k G^T      transforms the kernel k, giving `[a * a, C, F]`
    y = A^T (V U) A  transforms the products back to the outputs

A, B and G are constant matrices (see `Transforms`), C is the number of input maps, and F the number of output
maps. The gradients are the adjoints of these three lines. Both use `D = A g A^T`, where g is the gradient of
the outputs: the gradient of the kernel is `G^T (V^T D) G`, and that of the data is `B (D U^T) B^T`.
"""

from collections.abc import Callable, Sequence
import dataclasses
from fractions import Fraction
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.models.layers.reference import Array

# The finite points for each `a`; the last point is infinity. A search over small fractions found the points
# with the least error of the result. The usual points 0, 1, -1, 2, -2, 1/2, -1/2 give 2 to 10 times the
# error.
POINTS = {
  4: ('0', '1', '-1'),
  6: ('0', '2/3', '-2/3', '4/3', '-4/3'),
  7: ('0', '1', '-1', '3/5', '-3/5', '2'),
  8: ('0', '1', '-1', '3/5', '-3/5', '5/3', '-5/3'),
}
# For each `r`, the values of `m` that are considered.
TILES = {3: (2, 4, 5), 5: (2, 4)}
# The bytes of transformed data and outputs that are in memory at a time.
CHUNK_BYTES = 2**25

Matrix = list[list[Fraction]]


class Transforms(NamedTuple):
  """The matrices for one direction.

  Attributes:
    output: A^T, `[m, a]`.
    kernel: G, `[a, r]`.
    data: B^T, `[a, a]`.
  """

  output: np.ndarray
  kernel: np.ndarray
  data: np.ndarray


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
  """Returns the coefficients of the product of `x - root` over all roots, beginning with the constant."""
  out = [Fraction(1)]
  for root in roots:
    shifted, scaled = [Fraction(0), *out], [-root * c for c in out] + [Fraction(0)]
    out = [a + b for a, b in zip(shifted, scaled, strict=True)]
  return out


def exact_transforms(m: int, r: int, points: Sequence[str]) -> tuple[Matrix, Matrix, Matrix]:
  """Computes A^T, G and B^T as fractions, for `m` outputs and `r` taps.

  The points are the `m + r - 2` given ones and infinity. A and G evaluate polynomials at the points. The rows
  of B^T are the numerators of Lagrange's polynomials; their denominators divide the rows of G.
  """
  values = [Fraction(point) for point in points]
  others = [[v for v in values if v != value] for value in values]
  scales = [math.prod(v - w for w in rest) for v, rest in zip(values, others, strict=True)]
  zero, one = Fraction(0), Fraction(1)
  output = [[*(v**i for v in values), one if i == m - 1 else zero] for i in range(m)]
  kernel = [[v**j / scale for j in range(r)] for v, scale in zip(values, scales, strict=True)]
  data = [[*_polynomial(rest), zero] for rest in others]
  return output, [*kernel, [zero] * (r - 1) + [one]], [*data, _polynomial(values)]


@functools.cache
def transforms(m: int, r: int) -> Transforms:
  """Returns the float32 matrices for tiles of `m` outputs and kernels of `r` taps in each direction."""

  def as_floats(rows):
    return np.array([[float(x) for x in row] for row in rows], np.float32)

  return Transforms(*map(as_floats, exact_transforms(m, r, POINTS[m + r - 1])))


@dataclasses.dataclass(frozen=True)
class Plan:
  """How images of one shape are divided into tiles.

  Attributes:
    images: number of images.
    size: rows and columns of an image.
    before: rows of zeros above an image and columns of zeros to its left.
    out: rows and columns of the output.
    m: outputs of a tile in each direction.
    r: taps of the kernel in each direction.
  """

  images: int
  size: tuple[int, int]
  before: tuple[int, int]
  out: tuple[int, int]
  m: int
  r: int

  @property
  def a(self) -> int:
    """Returns the number of points in each direction, which is also the side of a tile's input in pixels."""
    return self.m + self.r - 1

  @property
  def tiles(self) -> tuple[int, int]:
    """Returns the number of rows and columns of tiles in an image."""
    return -(-self.out[0] // self.m), -(-self.out[1] // self.m)

  @property
  def reach(self) -> int:
    """Returns the number of following tiles into which the input of a tile extends."""
    return -(-self.a // self.m) - 1

  @property
  def covered(self) -> tuple[int, int]:
    """Returns the number of rows and columns of tiles that contain the inputs of all tiles."""
    return self.tiles[0] + self.reach, self.tiles[1] + self.reach

  @property
  def pads(self) -> list[tuple[int, int]]:
    """Returns the rows of zeros above and below an image, then the columns of zeros to its left and right."""
    return [
      (before, count * self.m - length - before)
      for before, count, length in zip(self.before, self.covered, self.size, strict=True)
    ]

  @property
  def matrices(self) -> Transforms:
    return transforms(self.m, self.r)

  @property
  def products(self) -> int:
    """Returns the number of multiplications for one image and one pair of an input map and an output map."""
    return self.a**2 * math.prod(self.tiles)


def plan(shape: Sequence[int], r: int, padding: Sequence[tuple[int, int]]) -> Plan | None:
  """Finds the tiles that need the fewest multiplications for a convolution at stride 1.

  Args:
    shape: the shape of the images, `[B, H, W, C]`.
    r: side of the kernel.
    padding: `((top, bottom), (left, right))` zeros.

  Returns:
    The plan, or None if `TILES` has no entry for the kernel or the tiles save no multiplications.
  """
  images, height, width, _ = shape
  (top, bottom), (left, right) = padding
  out = top + height + bottom - r + 1, left + width + right - r + 1
  plans = [Plan(images, (height, width), (top, left), out, m, r) for m in TILES.get(r, ())]
  best = min(plans, key=lambda candidate: candidate.products, default=None)
  return best if best and best.products < r * r * math.prod(out) else None


# A transform along one direction is a sum of slices with constant weights. It is written in two ways, because
# XLA merges elementwise operations into one loop wherever it can. `_stacked` makes an expression of each row
# of the matrix, and XLA stores the result in memory. `_weighted` is a single expression, in which the weights
# are an array. The first direction uses `_stacked` and the second `_weighted`. If both used `_weighted`, XLA
# would merge them into one sum of a * a terms for each element, which takes 1.6 to 3 times as long as two
# passes.


def _stacked(matrix: np.ndarray, parts: Sequence[Array]) -> Array:
  """Computes `sum_k matrix[i, k] * parts[k]`; i is a new first axis."""

  def row(weights):
    terms = [part if w == 1 else w * part for w, part in zip(weights, parts, strict=True) if w]
    return functools.reduce(jnp.add, terms)

  return jnp.stack([row(weights) for weights in matrix])


def _weighted(matrix: np.ndarray, parts: Sequence[Array]) -> Array:
  """Computes `sum_k matrix[i, k] * parts[k]`; i is a new second axis."""
  terms = [
    column.reshape(-1, *(1,) * (part.ndim - 1)) * part[:, None]
    for column, part in zip(matrix.T, parts, strict=True)
  ]
  return functools.reduce(jnp.add, terms)


def _both_ways(matrix: np.ndarray, x: Array) -> Array:
  """Applies `matrix` along both directions as one matrix product: `[k * k, ...]` -> `[i * i, ...]`."""
  flat = x.reshape(matrix.shape[1] ** 2, -1)
  return jnp.asarray(np.kron(matrix, matrix) @ flat).reshape(-1, *x.shape[1:])


def data_in(p: Plan, x: Array) -> Array:
  """Computes V: float32 `[B, H, W, C]` -> `[a * a, tiles, C]`."""
  m, a, maps = p.m, p.a, x.shape[-1]
  rows, columns = p.tiles
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in p.pads), (0, 0, 0)])
  x = x.reshape(p.images, p.covered[0], m, -1, maps)
  x = _stacked(p.matrices.data, [x[:, k // m : k // m + rows, k % m] for k in range(a)])
  x = x.reshape(a, p.images, rows, p.covered[1], m, maps)
  parts = [x[:, :, :, k // m : k // m + columns, k % m] for k in range(a)]
  return _weighted(p.matrices.data, parts).reshape(a * a, -1, maps)


def data_in_adjoint(p: Plan, v: Array) -> Array:
  """Applies the adjoint of `data_in`: `[a * a, tiles, C]` -> `[B, H, W, C]`.

  It transforms tiles back and adds them where they overlap.
  """
  m, a, reach, maps = p.m, p.a, p.reach, v.shape[-1]
  x = _both_ways(p.matrices.data.T, v).reshape(a, a, p.images, *p.tiles, maps)
  total = jnp.zeros((), x.dtype)
  for down in range(reach + 1):
    for right in range(reach + 1):
      part = x[down * m : (down + 1) * m, right * m : (right + 1) * m]
      short = [(0, m - length) for length in part.shape[:2]]
      shift = [(0, 0), (down, reach - down), (right, reach - right), (0, 0)]
      total = total + jnp.pad(part, short + shift)
  rows, columns = p.covered
  x = total.transpose(2, 3, 0, 4, 1, 5).reshape(p.images, rows * m, columns * m, maps)
  (top, left), (height, width) = p.before, p.size
  return x[:, top : top + height, left : left + width]


def output(p: Plan, products: Array) -> Array:
  """Computes y: `[a * a, tiles, F]` -> `[B, H', W', F]`."""
  m, (rows, columns) = p.m, p.tiles
  y = _both_ways(p.matrices.output, products).reshape(m, m, p.images, rows, columns, -1)
  y = y.transpose(2, 3, 0, 4, 1, 5).reshape(p.images, rows * m, columns * m, -1)
  return y[:, : p.out[0], : p.out[1]]


def output_adjoint(p: Plan, g: Array) -> Array:
  """Computes D: float32 `[B, H', W', F]` -> `[a * a, tiles, F]`."""
  m, back, (rows, columns) = p.m, p.matrices.output.T, p.tiles
  spare = [(0, count * m - length) for count, length in zip(p.tiles, p.out, strict=True)]
  g = jnp.pad(g, ((0, 0), *spare, (0, 0))).reshape(p.images, rows, m, columns, m, -1)
  g = _stacked(back, [g[:, :, i] for i in range(m)])
  g = _weighted(back, [g[:, :, :, :, j] for j in range(m)])
  return g.reshape(p.a**2, p.images * rows * columns, -1)


def kernel_in(p: Plan, kernel: Array) -> Array:
  """Computes U: float32 `[r, r, C, F]` -> `[a * a, C, F]`."""
  return _both_ways(p.matrices.kernel, kernel.reshape(p.r**2, *kernel.shape[2:]))


def kernel_in_adjoint(p: Plan, u: Array) -> Array:
  """Applies the adjoint of `kernel_in`: `[a * a, C, F]` -> `[r, r, C, F]`."""
  return _both_ways(p.matrices.kernel.T, u).reshape(p.r, p.r, *u.shape[1:])


def _batched(x: Array, y: Array, contracted: tuple[int, int]) -> Array:
  """Multiplies matrices over the shared first axis; `contracted` has the summed axis of `x` and of `y`."""
  return lax.dot_general(x, y, ((contracted[:1], contracted[1:]), ((0,), (0,))))


def images_at_a_time(images: int, image_bytes: int, least_bytes: int = 0) -> int:
  """Returns the number of images to compute at a time.

  All are computed at once if they take at most twice `CHUNK_BYTES`. Otherwise the images of a chunk take
  about `CHUNK_BYTES`, or `least_bytes` if that is more, and their number is a divisor of `images` if one
  lies between it and its half.

  Args:
    images: number of images.
    image_bytes: bytes that one image takes.
    least_bytes: bytes that a chunk should take at least.
  """
  if images * image_bytes <= 2 * CHUNK_BYTES:
    return images
  fitting = max(1, max(CHUNK_BYTES, least_bytes) // image_bytes)
  if fitting >= images:
    return images
  near = range(fitting, fitting // 2, -1)
  return next((n for n in near if images % n == 0), fitting)


def _chunk(p: Plan, channels: int, features: int) -> int:
  """Returns the images of a chunk, from the bytes of their transformed data and outputs.

  A chunk takes at least twice the bytes of the transformed kernel, which is read once for each chunk.
  """
  image_bytes = 4 * p.products * (channels + features)
  return images_at_a_time(p.images, image_bytes, 8 * p.a**2 * channels * features)


def in_chunks(function: Callable, size: int, *arrays: Array):
  """Applies `function` to `size` images at a time; adds up its first results and concatenates the second."""
  images = len(arrays[0])
  if size >= images:
    return function(*arrays)

  def chunks(x):
    x = jnp.pad(x, [(0, -images % size), *[(0, 0)] * (x.ndim - 1)])
    return x.reshape(-1, size, *x.shape[1:])

  def add(total, images):
    summed, joined = function(*images)
    return jax.tree.map(jnp.add, total, summed), joined

  parts = [chunks(x) for x in arrays]
  summed, _ = jax.eval_shape(function, *[part[0] for part in parts])
  axes = tuple(frozenset().union(*[jax.typeof(x).manual_axis_type.varying for x in arrays]))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), summed)
  start = lax.pcast(zeros, axes, to='varying') if axes else zeros
  total, joined = lax.scan(add, start, parts)
  return total, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:images], joined)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: Array, kernel: Array, p: Plan) -> Array:
  """Computes a convolution at stride 1 in float32.

  Args:
    x: `[B, H, W, C]`, any float dtype.
    kernel: `[r, r, C, F]`.
    p: the result of `plan` for these shapes.

  Returns:
    `[B, H', W', F]` in the dtype of `x`.
  """
  u = kernel_in(p, kernel.astype(jnp.float32))
  size = _chunk(p, *u.shape[1:])
  part = dataclasses.replace(p, images=size)

  def some(x):
    v = data_in(part, x.astype(jnp.float32))
    return (), output(part, _batched(v, u, (2, 1))).astype(x.dtype)

  return in_chunks(some, size, x)[1]


def _conv_forward(x, kernel, p):
  return conv(x, kernel, p), (x, kernel)


def _conv_backward(p, saved, g):
  x, kernel = saved
  u = kernel_in(p, kernel.astype(jnp.float32))
  _, channels, features = u.shape
  size = _chunk(p, channels, features)
  part = dataclasses.replace(p, images=size)

  def some(x, g):
    d = output_adjoint(part, g.astype(jnp.float32))
    v = data_in(part, x.astype(jnp.float32))
    # XLA multiplies up to twice as fast if the result has few rows, so the transposed product may be
    # computed.
    du = _batched(d, v, (1, 1)) if features < channels else _batched(v, d, (1, 1))
    return du, data_in_adjoint(part, _batched(d, u, (2, 2))).astype(x.dtype)

  du, dx = in_chunks(some, size, x, g)
  dkernel = kernel_in_adjoint(p, du)
  dkernel = dkernel.swapaxes(2, 3) if features < channels else dkernel
  return dx, dkernel.astype(kernel.dtype)


conv.defvjp(_conv_forward, _conv_backward)
