"""A small folder of one's own photographs: a network with an eighth of the widths that learns in minutes.

Reproduces no number of the paper. The settings are those of configs/cats_vs_dogs.py:scratch, and photographs
are turned upright. They suit some hundreds to some thousands of photographs.

Command:  python main.py --config=configs/photos.py --config.data.source=folder:PATH --workdir=DIR
          python main.py --mode=eval --workdir=DIR --checkpoint=latest
Expected: on 1,200 photographs of cats and dogs, 24.8 % error with ten views, the mean of three seeds, where
          ridge regression on pixel means has 43.3 % (`scratch` in RESULTS.md, not turned upright).
Hardware: 2 CPU cores, a few minutes for 1,200 photographs. With a GPU, `--config.model.width=1` uses the
          widths of the paper; this was not tried.
Result:   33.0 % on 400 training photographs of cats and dogs (seed 0, 2026-11-30), where ridge regression has
          41.7 %; 61 s on two AVX-512 cores. On an AVX2 processor it was 31.0 % (2026-11-29).
"""

from alexnet_jax.config import recipes
from alexnet_jax.config.overrides import SMALL_SET


def get_config(variant='original'):
  """The config of the network of `RECIPE` or `RECIPE+OVERRIDE+...`."""
  return recipes.get(variant, SMALL_SET | {'data.canvas.exif_orientation': True})
