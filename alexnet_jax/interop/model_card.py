"""The model card that `--mode=export` leaves beside what it writes: model_card.md, filled in.

The block at its head is what the Hugging Face Hub reads of a README.md.
"""

import json
import pathlib
import string

import numpy as np

from alexnet_jax import models
from alexnet_jax.evaluation.evaluate import Trained
from alexnet_jax.version import __version__

_TEMPLATE = pathlib.Path(__file__).with_name('model_card.md')
_SHOWN = 10  # classes that are named

# How each format is read back.
_USAGE = {
  'safetensors': 'Read it with `alexnet-jax --mode=import --format=safetensors --weights=$file '
  '--workdir=DIR`.',
  'torchvision': 'It is a state_dict of `torchvision.models.alexnet`.',
  'pytorch': 'It is a state_dict for PyTorch: layers by name, towers as groups (`nn.Conv2d(..., groups=2)`), '
  'fc6 after `flatten(1)`.',
  'cuda_convnet': "The matrices of the original's layers.",
  'stablehlo': 'Run it with `jax.export.deserialize(open("$file", "rb").read()).call(canvases)`; the JSON '
  'file beside it says what goes in and out.',
  'savedmodel': 'Signature `serving_default(images)`; the JSON file in it says what goes in and out.',
}
_ALONE = ('torchvision', 'pytorch', 'cuda_convnet')  # formats of weights and nothing else

# The licence, by how the Hub calls it, and its terms, of what is trained on a source.
_TERMS = {
  'elpv': (
    'cc-by-nc-sa-4.0',
    'Made from the images of elpv-dataset, which are under CC BY-NC-SA 4.0: not for commercial use.',
  ),
  'tfds:imagenet': (
    'other',
    'Made from ImageNet, whose images are for non-commercial research and education only '
    '(its terms of access).',
  ),
}
_UNKNOWN = (
  'other',
  'The weights are under the terms of the images that they were made from: **name them here**.',
)


def _errors(trained: Trained) -> tuple[list[str], str]:
  """The rows of the table, and the Hub's block of results, empty where nothing was measured."""
  found, own = trained.meta['validation'], trained.meta['config'].eval
  how = f'{own.train_views} view(s), weights `{own.weights}`'
  rows = [
    f'| {words} | {found[name]:.2f} |'
    for name, words in (
      ('val/top1_error', f'top-1 error %, {how}'),
      ('val/top5_error', f'top-5 error %, {how}'),
      ('val/loss', 'loss'),
    )
    if name in found
  ]
  if 'val/top1_error' not in found:
    return ['| not measured | |'], ''
  result = {
    'task': {'type': 'image-classification'},
    'dataset': {'name': trained.config.data.source.partition(':')[0], 'type': 'images'},
    'metrics': [{'type': 'accuracy', 'value': round(1 - found['val/top1_error'] / 100, 4)}],
  }
  index = [{'name': f'alexnet_jax {trained.config.recipe}', 'results': [result]}]
  return rows, f'model-index: {json.dumps(index)}\n'


def _usage(trained: Trained, form: str, file: str) -> str:
  """How a file is read back, and where it does not say so itself, which images the network takes."""
  usage = string.Template(_USAGE[form]).substitute(file=file)
  if form not in _ALONE:
    return usage
  config, mean = trained.config, np.asarray(trained.model.mean_image).mean((0, 1), np.float64)
  levels, deviations = (', '.join(f'{x:.4g}' for x in xs) for xs in (mean, config.augment.std))
  return (
    f'{usage} It takes RGB images in grey levels, {config.model.input_size} pixels of a canvas of '
    f'{config.data.canvas.size} (fit `{config.data.canvas.fit}`), less the mean '
    f'(`{config.augment.mean}`; its channels have {levels}) and divided by {deviations}.'
  )


def _training(trained: Trained) -> str:
  """What it was trained on, and how; paths are left out."""
  meta, config = trained.meta, trained.config
  if not meta['num_train']:
    return 'The weights were imported; of their training nothing is known here.'
  kind, _, name = config.data.source.partition(':')
  source = f'{kind}:{name}' if kind == 'tfds' else kind
  return (
    f'{meta["num_train"]:,} images of source `{source}`, {meta["num_validation"]:,} more for validation; '
    f'{meta["epoch"]:.2f} epochs in batches of {config.train.batch_size}, rate {config.optim.rate:g} with '
    f'schedule `{config.optim.schedule}`, seed {config.seed}.'
  )


def write(trained: Trained, form: str, output: str) -> str:
  """Fills the card in and writes it: README.md in the folder of `output`, or in it if it is a folder.

  Where there is a README.md already it is OUTPUT.README.md.

  Args:
    trained: the network.
    form: the format of what was written.
    output: where that lies.

  Returns:
    The card's path.
  """
  config, meta = trained.config, trained.meta
  table = models.layer_table(config.model)
  rows, index = _errors(trained)
  source = config.data.source
  license_name, terms = next((_TERMS[key] for key in _TERMS if source.startswith(key)), _UNKNOWN)
  if not meta['num_train']:
    license_name, terms = _UNKNOWN
  names, place = meta['class_names'], pathlib.Path(output)
  more = ', ...' if len(names) > _SHOWN else ''
  text = string.Template(_TEMPLATE.read_text()).substitute(
    license=license_name,
    index=index,
    recipe=config.recipe,
    version=__version__,
    towers={1: 'one tower', 2: 'two towers'}[config.model.towers],
    parameters=f'{sum(row["parameters"] for row in table):,}',
    macs=f'{sum(row["macs"] for row in table):,}',
    classes=len(names),
    input_size=config.model.input_size,
    file=place.name,
    format=form,
    step=trained.step,
    weights_kind=config.eval.weights,
    usage=_usage(trained, form, place.name),
    training=_training(trained),
    errors='\n'.join(rows),
    shown=', '.join(f'`{name}`' for name in names[:_SHOWN]) + more,
    terms=terms,
  )
  card = (place if place.is_dir() else place.parent) / 'README.md'
  if card.exists():
    card = place.with_name(f'{place.name}.README.md')
  card.write_text(text)
  return str(card)
