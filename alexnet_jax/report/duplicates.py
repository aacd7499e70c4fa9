"""Images that occur in the training and in the validation split, which makes the validation error too low."""

import hashlib

import numpy as np
from PIL import Image

_SIDE = 32  # images are compared after they are reduced to this side, in grey
_CLOSE = 0.07  # largest difference of nearly identical images, as a share of the contrast


def digests(canvases: np.ndarray) -> list[bytes]:
  """Returns a digest of the pixels of each image.

  Args:
    canvases: uint8 `[N, S, S, 3]`.

  Returns:
    8 bytes for each image; those of different images differ, except by a very rare chance.
  """
  return [hashlib.blake2b(canvas.tobytes(), digest_size=8).digest() for canvas in canvases]


def likeness(first: np.ndarray, second: np.ndarray) -> str:
  """Compares two images, each uint8 `[S, S, 3]`.

  Returns:
    `identical` if all pixels are equal; `nearly identical` if the root mean square difference of the grey
    images, reduced to 32x32 pixels, is below 7 % of the standard deviation of the first, as it is or
    mirrored; else the empty text. Images without contrast are never nearly identical.
  """
  if np.array_equal(first, second):
    return 'identical'
  one, other = _reduced(first), _reduced(second)
  limit = _CLOSE * one.std()
  differences = (np.sqrt(np.mean((one - x) ** 2)) for x in (other, other[:, ::-1]))
  return 'nearly identical' if min(differences) < limit else ''


def _reduced(canvas: np.ndarray) -> np.ndarray:
  """Returns a small grey image, float64 `[32, 32]`."""
  image = Image.fromarray(canvas).convert('L').resize((_SIDE, _SIDE), Image.Resampling.BOX)
  return np.asarray(image, float)
