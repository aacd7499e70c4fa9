"""The modes and the flags of the command line: their meanings, and which flags a mode uses and requires."""

from typing import Any, NamedTuple

MODES = {
  'train': 'Train, or resume the run in --workdir. This is the default.',
  'eval': 'Evaluate a run, or the average of several runs.',
  'config': 'Print every key of the config with its value.',
  'describe': 'Describe the layers, the memory of each device and the communication between devices.',
  'prepare': 'Decode and scale images once and write them to a store.',
  'predict': 'Print the most probable classes of image files.',
  'features': 'Write the activations of a layer.',
  'import': 'Create a workdir from the weights of another framework.',
  'export': 'Write weights, or a program, for another framework.',
  'serve': 'Serve a local web page that classifies the images dropped on it.',
  'report': 'Write a page about a run, WORKDIR/report/index.html.',
}


class Flag(NamedTuple):
  """One flag of the command line.

  Attributes:
    default: value where the flag is absent; its type is the type of the flag, and a tuple is a list that is
      written with commas. None stands for an integer that is absent.
    meaning: what the flag does.
    modes: the modes that use the flag; empty for all modes.
    minimum: smallest allowed value of an integer.
  """

  default: Any
  meaning: str
  modes: tuple[str, ...] = ()
  minimum: int | None = None

  @property
  def text(self) -> str:
    """Returns the meaning after the modes that use the flag."""
    return f'{", ".join(self.modes)}: {self.meaning}' if self.modes else self.meaning


_TRAINED = (
  'predict',
  'features',
  'eval',
  'report',
  'serve',
  'export',
)  # they read a trained network
_TOGETHER = ('train', 'eval', 'describe')  # several processes can run them together


FLAGS = {
  'mode': Flag('train', f'What to do: {", ".join(MODES)}.'),
  'workdir': Flag('', 'The folder of the run.'),
  'dry_run': Flag(
    False,
    'Read a batch, compile and time three steps, print time and memory of the run, and write nothing.',
    ('train',),
  ),
  'sweep': Flag(
    '',
    'One run for each combination of values, as in "optim.rate=0.01,0.02 seed=0,1".',
    ('train',),
  ),
  'checkpoint': Flag(
    'best', 'The checkpoint to read: best, latest or the number of a step.', _TRAINED
  ),
  'checkpoints': Flag(
    (),
    'The workdirs or .safetensors files of several networks, whose probabilities are averaged.',
    ('eval',),
  ),
  'weights': Flag(
    (),
    'A .safetensors file of --mode=export, in place of --workdir. With --checkpoints: one number '
    'for each network. import: the file of weights.',
    (*_TRAINED, 'import', 'config'),
  ),
  'search_weights': Flag(
    False,
    'With --checkpoints: search for the weights with the fewest errors on the images evaluated. '
    'The resulting error is optimistic.',
    ('eval',),
  ),
  'images': Flag((), 'Image files, folders or globs.', ('predict', 'features')),
  'output': Flag(
    '',
    'The folder or file to write. predict: a .csv file. eval: the .json file of the result, by '
    'default WORKDIR/evaluation.json for a single run. report: the page, by default '
    'WORKDIR/report/index.html, or beside the file of --weights.',
    ('prepare', 'features', 'export', 'predict', 'eval', 'report'),
  ),
  'picture': Flag(
    '',
    'An image file (.png, .pdf, .svg or .jpg) that shows the images with their most probable classes.',
    ('predict',),
  ),
  'layer': Flag('fc7', 'The name of the layer.', ('features',)),
  'split': Flag('validation', 'Without --images: validation or train.', ('features',)),
  'features': Flag(
    '',
    'The .npz file written by --mode=features --images=..., in which nearest images are searched.',
    ('serve',),
  ),
  'host': Flag('127.0.0.1', 'The address to listen on.', ('serve',)),
  'port': Flag(8000, 'The port to listen on; 0 chooses a free one.', ('serve',), minimum=0),
  'shard': Flag('', 'i/n does the i-th of n parts of the work.', ('prepare',)),
  'format': Flag(
    '',
    'import: torchvision, pytorch, caffe, cuda_convnet or safetensors. export: torchvision, pytorch, '
    'cuda_convnet, safetensors, stablehlo or savedmodel.',
    ('import', 'export'),
  ),
  'mean': Flag(
    '',
    'The mean to subtract, as R,G,B in grey levels or a .binaryproto or .npy file.',
    ('import',),
  ),
  'classes': Flag('', 'A text file with the name of one class on each line.', ('import',)),
  'channels': Flag(
    '',
    'The channel order of the images that the weights expect, rgb or bgr. The default is bgr for '
    'caffe and rgb for every other format.',
    ('import',),
  ),
  'images_per_s': Flag(
    None,
    'An assumed speed of one device in images per second. The table then shows what the mesh demands of '
    'the network, the hosts and the store.',
    ('describe',),
    minimum=1,
  ),
  'devices_per_host': Flag(8, 'The number of devices in a host.', ('describe',), minimum=1),
  'distributed': Flag(
    False,
    'Run as one of several processes, which are found through SLURM, a Kubernetes JobSet, a Cloud '
    'TPU or the next three flags.',
    _TOGETHER,
  ),
  'coordinator': Flag('', 'The address of process 0, HOST[:PORT].', _TOGETHER),
  'num_processes': Flag(None, 'The number of processes.', _TOGETHER, minimum=1),
  'process_id': Flag(None, 'The number of this process, counted from 0.', _TOGETHER, minimum=0),
  'peer_timeout': Flag(
    30,
    'The seconds without contact after which a process counts as lost.',
    _TOGETHER,
    minimum=1,
  ),
}
HELP = ('help', 'helpfull', 'version')
# The flags whose values are paths, or lists of paths.
PATHS = (
  'checkpoints',
  'classes',
  'config',
  'config.init_from',
  'features',
  'images',
  'mean',
  'output',
  'picture',
  'weights',
  'workdir',
)

_NETWORK = 'the folder of a run, or give --weights=FILE.safetensors'
# The flags that a mode requires, and what each must name.
REQUIRED = {
  'eval': {'workdir': f'{_NETWORK}, or --checkpoints'},
  'prepare': {'output': 'the folder of the store to write'},
  'predict': {'workdir': _NETWORK, 'images': 'files, folders or a glob'},
  'features': {'workdir': _NETWORK, 'output': 'the .npz file to write'},
  'import': {
    'format': 'torchvision, pytorch, caffe, cuda_convnet or safetensors',
    'weights': 'the file of weights',
    'workdir': 'the folder to create',
  },
  'serve': {'workdir': _NETWORK},
  'report': {'workdir': _NETWORK},
  'export': {
    'workdir': _NETWORK,
    'format': 'torchvision, pytorch, cuda_convnet, safetensors, stablehlo or savedmodel',
    'output': 'the file to write',
  },
}
