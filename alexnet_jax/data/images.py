"""The canvases of one split: decoded on demand, or decoded once and kept in memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import threading
import zlib

import numpy as np
from tqdm import tqdm

from alexnet_jax.data.decode import Canvas, decode_canvas
from alexnet_jax.data.splits import Split, check_reach


class SplitImages:
  """The canvases of one split.

  Args:
    split: N encoded images.
    canvas: how an image becomes a canvas of S x S pixels.
    on_error: called with (index, reason) for an image that cannot be decoded; it may raise.

  Attributes:
    split: the encoded images.
    checksums: CRC-32 of the bytes of each image, uint32 [N], after `keep_in_memory`; 0 for an image
      that cannot be decoded.
  """

  def __init__(self, split: Split, canvas: Canvas, on_error: Callable[[int, str], None]):
    self.split = split
    self.checksums = np.zeros(len(split), np.uint32)
    self._shape = (canvas.size, canvas.size, 3)
    self._canvas = canvas
    self._on_error = on_error
    self._lock = threading.Lock()
    self._wants_checksums = False
    self._memory: tuple[np.ndarray, np.ndarray] | None = None

  def keep_in_memory(self, threads: int) -> None:
    """Decodes the whole split into memory, once.

    Raises:
      RunError: an image is out of reach.
    """
    with self._lock:
      if self._memory is not None:
        return
      n, self._wants_checksums = len(self.split), True
      images, mask = np.zeros((n, *self._shape), np.uint8), np.zeros(n, bool)

      def decode(i: int) -> None:
        mask[i] = self._decode(i, images[i])

      with ThreadPoolExecutor(threads) as pool:
        decoded = pool.map(decode, range(n))
        for _ in tqdm(decoded, total=n, desc='decoding', unit='image', disable=None):
          pass
      self._memory = images, mask

  def free_memory(self) -> None:
    """Frees the canvases that are kept in memory."""
    self._memory = None

  def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the canvases of `indices` (int64 [b]; -1 is padding).

    Returns:
      uint8 [b, S, S, 3] and a mask, bool [b]. A canvas is zero where the mask is False.

    Raises:
      RunError: an image is out of reach.
    """
    memory = self._memory
    if memory is not None:
      images, decoded = memory
      mask = decoded[indices] & (indices >= 0)
      result = np.take(images, indices, axis=0, mode='wrap')
      result[~mask] = 0
      return result, mask
    result = np.empty((len(indices), *self._shape), np.uint8)
    return result, self.fill(indices, result)

  def fill(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Decodes `indices` (int64 [b]; -1 is padding) into `out`, uint8 [b, S, S, 3].

    Returns:
      A mask, bool [b]. A canvas is zero where the mask is False.

    Raises:
      RunError: an image is out of reach.
    """
    decoded = [i >= 0 and self._decode(int(i), one) for i, one in zip(indices, out, strict=True)]
    mask = np.asarray(decoded, bool)
    out[~mask] = 0
    return mask

  def _decode(self, i: int, out: np.ndarray) -> bool:
    """Writes canvas i to `out`, uint8 [S, S, 3]; returns False if it cannot be decoded."""
    try:
      data = _decode_into(self.split, i, self._canvas, out)
    except (ValueError, OSError) as error:
      check_reach(self.split.name(i), error)
      self._on_error(i, str(error))
      return False
    if self._wants_checksums:
      self.checksums[i] = zlib.crc32(data if isinstance(data, bytes) else data.data)
    return True


def find_undecodable(split: Split, canvas: Canvas, threads: int) -> dict[int, str]:
  """Decodes a whole split and returns {index: reason} of the images that cannot be decoded.

  Raises:
    RunError: an image is out of reach.
  """

  def error_of(i: int) -> str | None:
    try:
      _decode_into(split, i, canvas, np.empty((canvas.size, canvas.size, 3), np.uint8))
    except (ValueError, OSError) as error:
      check_reach(split.name(i), error)
      return str(error)
    return None

  with ThreadPoolExecutor(threads) as pool:
    errors = pool.map(error_of, range(len(split)))
    bar = tqdm(errors, total=len(split), desc='checking images', unit='image', disable=None)
    return {i: error for i, error in enumerate(bar) if error is not None}


def _decode_into(split: Split, i: int, canvas: Canvas, out: np.ndarray) -> bytes | np.ndarray:
  """Writes canvas i of a split to `out`, uint8 [S, S, 3]; returns the bytes that were read."""
  if split.fill:
    split.fill(i, out)
    return out
  data = split.read(i)
  out[...] = decode_canvas(data, canvas)
  return data
