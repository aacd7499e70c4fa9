"""The keys of `config.data` and `config.prepare`: their default values, meanings and allowed values."""

from alexnet_jax.utils import schema
from alexnet_jax.utils.schema import Key, Schema

CANVAS: Schema = {
  'size': Key(
    256,
    'The side of a canvas, which is the square image that is stored and that crops are cut from.',
    unit='pixels',
    minimum=1,
    maximum=8192,
  ),
  'fit': Key(
    'crop',
    'How an image becomes a canvas: `crop` scales its short side to data.canvas.size and cuts '
    'out the centre, as the paper does; `warp` scales both sides to data.canvas.size, as Caffe '
    'does; `pad` scales its long side to data.canvas.size and fills the rest with mid-grey.',
    choices=('crop', 'warp', 'pad'),
  ),
  'filter': Key(
    'bicubic',
    'The antialiased filter that scales images.',
    choices=('bicubic', 'bilinear', 'box', 'lanczos'),
  ),
  'max_pixels': Key(
    89_478_485,
    'The largest image that is decoded, width times height. A larger one counts as an image that '
    'cannot be decoded. The library Pillow warns of images above the default value, and opens '
    'none with more than 178,956,970 pixels.',
    unit='pixels',
    minimum=1,
    maximum=178_956_970,
  ),
  'exif_orientation': Key(
    True,
    'Whether a photograph is turned upright by its EXIF orientation, as browsers show it. The '
    'original code, Caffe, torchvision and TFDS ignore the orientation. Runs that were started '
    'before this key existed ignore it too.',
  ),
}

DATA: Schema = {
  'source': Key(
    'tfds:imagenet2012',
    'Where images come from: `tfds:NAME` (a data set of TensorFlow Datasets, TFDS), '
    '`folder:PATH` (one folder of images for each class), `store:PATH` (what --mode=prepare '
    'wrote), `elpv` (photographs of solar cells in the package elpv-dataset) or `synthetic` '
    '(generated gratings).',
  ),
  'data_dir': Key(
    '', 'The folder in which TFDS keeps data sets. An empty value is the default folder of TFDS.'
  ),
  'manual_dir': Key(
    '',
    'The folder with the archives that TFDS cannot download itself, such as those of ImageNet. '
    'An empty value is the default folder of TFDS.',
  ),
  'devkit': Key(
    '',
    'The folder of the unpacked ImageNet development kit, which holds the labels of the '
    'validation images. An empty value searches beside the folders train and val.',
  ),
  'label_order': Key(
    '',
    'The order in which the classes of ImageNet are numbered: `wordnet` by WordNet ID, `devkit` '
    'as in the development kit and the original 2012 code. An empty value keeps the order of the '
    'source.',
    choices=('', 'wordnet', 'devkit'),
  ),
  'task': Key(
    'type',
    'What is classified with the source `elpv`: `type` is monocrystalline against '
    'polycrystalline cells, `defect` is functional against defective cells.',
    choices=('type', 'defect'),
  ),
  'holdout': Key(
    0.1,
    'The share of each class that is held out for validation where the source has no validation '
    'split.',
    minimum=0,
    below=1,
  ),
  'split_seed': Key(
    0,
    'The seed that draws the images held out. It is separate from `seed` so that runs with '
    'different seeds are evaluated on the same images.',
    minimum=1 - 2**63,
    maximum=2**63 - 1,
  ),
  'canvas': CANVAS,
  'threads': Key(
    0,
    'The number of threads that decode images, with either loader. 0 is one thread per processor '
    'core.',
    minimum=0,
    maximum=1024,
  ),
  'shuffle': Key(
    'global',
    'The order of training images: `global` draws a new permutation for each epoch; `stored` '
    'keeps the order of the source, as the original 2012 code did; `buffer` permutes blocks of a '
    'TFDS data set in TFRecord format, and then data.buffer images at a time, which avoids '
    'copying it into a store.',
    choices=('global', 'stored', 'buffer'),
  ),
  'buffer': Key(
    4096,
    'The number of images that are permuted at a time where data.shuffle is `buffer`.',
    unit='images',
    minimum=1,
  ),
  'loader': Key(
    'auto',
    'What reads data sets that are not kept in memory: `tf.data`, `threads` of Python, or `auto`, '
    'which is tf.data where TensorFlow is installed and threads elsewhere. Both make the same '
    'batches.',
    choices=('auto', 'tf.data', 'threads'),
  ),
  'cache_mib': Key(
    2048,
    'The memory for canvases. A data set that fits is decoded once and kept in memory.',
    unit='MiB',
    minimum=0,
  ),
  'max_bad_share': Key(
    0.01,
    'The largest share of training images that cannot be decoded. With more, the run or '
    '--mode=prepare stops; a single such image never stops it.',
    minimum=0,
    maximum=1,
  ),
  'drop_bad_validation': Key(
    False,
    'Whether validation images that cannot be decoded are left out when a run begins or a store is '
    'prepared. Otherwise they are an error that names them, because errors measured on other images '
    'cannot be compared.',
  ),
  'synthetic': {
    'classes': Key(10, 'The number of classes of the source `synthetic`.', minimum=1),
    'train': Key(
      512, 'The number of training images of the source `synthetic`.', unit='images', minimum=1
    ),
    'validation': Key(
      128, 'The number of validation images of the source `synthetic`.', unit='images', minimum=0
    ),
  },
}

PREPARE: Schema = {
  'format': Key(
    'jpeg',
    'How --mode=prepare stores canvases: `jpeg`, or `raw` for uncompressed pixels, which take '
    'about six times the space and need no decoding.',
    choices=('jpeg', 'raw'),
  ),
  'quality': Key(
    95, 'The quality of stored JPEG canvases; 100 is the best.', minimum=1, maximum=100
  ),
  'subsampling': Key(
    '420',
    'The chroma subsampling of stored JPEG canvases: 4:4:4 keeps the full resolution of colours, '
    '4:2:2 half and 4:2:0 a quarter of it.',
    choices=('444', '422', '420'),
  ),
  'shard_images': Key(
    4096,
    'The number of canvases in each file of a store. An interrupted --mode=prepare repeats the '
    'work of at most the file that it was writing.',
    unit='images',
    minimum=1,
  ),
  'shuffle': Key(
    True,
    'Whether the training images of a store are permuted once when it is made. A TFDS set in '
    'TFRecord files that does not fit into data.cache_mib keeps its order.',
  ),
}


def check(config_data: object) -> None:
  """Checks `config.data`; raises UserError for a key that is missing or not allowed."""
  schema.check(config_data, DATA, 'config.data')
