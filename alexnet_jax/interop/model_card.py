"""The model card that `--mode=export` writes beside the network, from the template model_card.md.

The block at its head is the metadata that the Hugging Face Hub reads in a README.md.
"""

import json
import pathlib
import string

import numpy as np

from alexnet_jax import models
from alexnet_jax.data import sources
from alexnet_jax.evaluation.loading import Trained
from alexnet_jax.utils import atomic_io
from alexnet_jax.version import __version__

_TEMPLATE = pathlib.Path(__file__).with_name('model_card.md')
_SHOWN = 10  # number of classes that the card names

# How to use a file of each format.
_USAGE = {
  'safetensors': 'Classify images with `alexnet-jax --mode=predict --weights=$file --images=FOLDER`, or in '
  'Python with `alexnet_jax.load("$file").predict(images)`.',
  'torchvision': 'It is a state_dict of `torchvision.models.alexnet`.',
  'pytorch': 'It is a state_dict for PyTorch: it names the layers as `alexnet_jax` does, towers are groups '
  '(`nn.Conv2d(..., groups=2)`), and fc6 follows `flatten(1)`.',
  'cuda_convnet': 'It holds the matrices of the original layers of cuda-convnet.',
  'stablehlo': 'Run it with `jax.export.deserialize(open("$file", "rb").read()).call(canvases)`; the JSON '
  'file beside it describes the input and the output.',
  'savedmodel': 'It has the signature `serving_default(images)`; the JSON file in the folder describes the '
  'input and the output.',
}
_WEIGHTS_ONLY = (
  'torchvision',
  'pytorch',
  'cuda_convnet',
)  # formats that hold nothing but parameters

# For each `config.model.name`, what the card calls the network, and the paper.
_ALEXNET = (
  '*ImageNet Classification with Deep Convolutional Neural Networks* (Krizhevsky, Sutskever, Hinton, '
  '2012)'
)
_NETWORKS = {
  'alexnet': ('AlexNet', _ALEXNET),
  'cifar10': ('Network for CIFAR-10', f'{_ALEXNET}, sections 3.1 and 3.3'),
  'lenet5': (
    'LeNet-5',
    '*Gradient-Based Learning Applied to Document Recognition* (LeCun, Bottou, Bengio, Haffner, 1998)',
  ),
}

# For each source of images, the licence of a network trained on them: its name on the Hub, and its terms.
_TERMS = {
  'elpv': (
    'cc-by-nc-sa-4.0',
    'The network was trained on elpv-dataset, whose licence is CC BY-NC-SA 4.0: no commercial use.',
  ),
  'tfds:mnist': (
    'cc-by-sa-3.0',
    'The network was trained on MNIST, whose licence is CC BY-SA 3.0 (Yann LeCun and Corinna Cortes).',
  ),
  'tfds:imagenet': (
    'other',
    'The network was trained on ImageNet, whose terms of access allow only non-commercial research and '
    'education.',
  ),
}
_UNKNOWN = (
  'other',
  'The terms of the images that the network was trained on apply: **name them here**.',
)


def _errors(trained: Trained) -> tuple[list[str], str]:
  """Returns the rows of the table of errors, and the Hub's block of results, empty if none were measured."""
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
  if own.weights != trained.config.eval.weights:  # those of the file were not measured
    return rows, ''
  result = {
    'task': {'type': 'image-classification'},
    'dataset': {'name': sources.short_name(trained.config.data.source), 'type': 'images'},
    'metrics': [{'type': 'accuracy', 'value': round(1 - found['val/top1_error'] / 100, 4)}],
  }
  index = [{'name': f'alexnet_jax {trained.config.recipe}', 'results': [result]}]
  return rows, f'model-index: {json.dumps(index)}\n'


def _usage(trained: Trained, form: str, file: str) -> str:
  """Returns how to use a file and, for formats that hold only parameters, which images the network takes."""
  usage = string.Template(_USAGE[form]).substitute(file=file)
  if form not in _WEIGHTS_ONLY:
    return usage
  config, mean = trained.config, np.asarray(trained.model.mean_image).mean((0, 1), np.float64)
  levels, deviations = (', '.join(f'{x:.4g}' for x in xs) for xs in (mean, config.augment.std))
  less = f'less the mean (`{config.augment.mean}`; its channels have {levels}), '
  return (
    f'{usage} It takes RGB images in grey levels: {config.model.input_size} pixels of a canvas of '
    f'{config.data.canvas.size} (fit `{config.data.canvas.fit}`), '
    f'{"" if config.augment.mean == "none" else less}divided by {deviations}'
    f'{"; the mean of the channels is the input" if config.model.gray else ""}. '
    f'The file `{file}.json` holds the mean image, the classes and the whole config; '
    f'`alexnet-jax --mode=import --format={form} --weights={file} --workdir=DIR` reads it.'
  )


def _training(trained: Trained) -> str:
  """Returns a sentence about the training data and the training, without paths."""
  meta, config = trained.meta, trained.config
  if not meta['num_train']:
    return 'The weights were imported, and nothing is known about their training.'
  kind, _, name = config.data.source.partition(':')
  source = f'{kind}:{name}' if kind == 'tfds' else kind
  started = pathlib.Path(config.init_from).name
  return (
    f'{f"It started from layers of `{started}`. " if started else ""}'
    f'It was trained on {meta["num_train"]:,} images of source `{source}`, with '
    f'{meta["num_validation"]:,} more for validation, for {meta["epoch"]:.2f} epochs in batches of '
    f'{config.train.batch_size}, at learning rate {config.optim.rate:g} with schedule '
    f'`{config.optim.schedule}` and seed {config.seed}.'
  )


def _licence(trained: Trained) -> tuple[str, str]:
  """Returns the licence of a network: its name on the Hub, and its terms."""
  source, started = trained.config.data.source, pathlib.Path(trained.config.init_from).name
  name, terms = next((_TERMS[key] for key in _TERMS if source.startswith(key)), _UNKNOWN)
  if not trained.meta['num_train']:
    return _UNKNOWN
  if started:
    name = _UNKNOWN[0]
    terms += (
      f' The terms of `{started}`, from whose layers it started, apply too: **name them here**.'
    )
  return name, terms


def _is_card_of(card: pathlib.Path, file: str) -> bool:
  """Returns whether `card` is a model card that an export wrote for a file of this name."""
  text = card.read_text(encoding='utf-8', errors='replace')
  return (
    text.startswith('---\nlibrary_name: alexnet_jax\n') and f'\n`{file}` is in format `' in text
  )


def write(trained: Trained, form: str, output: str) -> str:
  """Writes the model card: README.md in the folder of `output`, or in `output` if that is a folder.

  If that folder has a README.md already, which is not an earlier card of the same file, the card is
  OUTPUT.README.md.

  Args:
    trained: the network.
    form: the format of the exported file.
    output: the exported file or folder.

  Returns:
    The path of the card.
  """
  config, meta = trained.config, trained.meta
  table = models.layer_table(config.model)
  rows, index = _errors(trained)
  license_name, terms = _licence(trained)
  names, path = meta['class_names'], pathlib.Path(output)
  more = ', ...' if len(names) > _SHOWN else ''
  network, paper = _NETWORKS[config.model.name]
  text = string.Template(_TEMPLATE.read_text()).substitute(
    network=network,
    paper=paper,
    tag=config.model.name,
    license=license_name,
    index=index,
    recipe=config.recipe,
    version=__version__,
    towers={1: 'one tower', 2: 'two towers'}[config.model.towers],
    parameters=f'{sum(row["parameters"] for row in table):,}',
    macs=f'{sum(row["macs"] for row in table):,}',
    classes=len(names),
    input_size=config.model.input_size,
    canvas=config.data.canvas.size,
    file=path.name,
    format=form,
    step=trained.step,
    weights_kind=config.eval.weights,
    usage=_usage(trained, form, path.name),
    training=_training(trained),
    errors='\n'.join(rows),
    shown=', '.join(f'`{name}`' for name in names[:_SHOWN]) + more,
    terms=terms,
  )
  card = (path if path.is_dir() else path.parent) / 'README.md'
  if card.exists() and not _is_card_of(card, path.name):
    card = path.with_name(f'{path.name}.README.md')
  with atomic_io.replacing(card) as file:
    file.write(text.encode('utf-8', 'replace'))
  return str(card)
