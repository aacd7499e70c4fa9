# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{NAME}.ipynb)

# %%
# This cell finds the checkout that contains this notebook. Elsewhere, as in Colab, it installs the package
# with the JAX for the available accelerator (Runtime > Change runtime type).
import glob
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys

here, package = pathlib.Path.cwd(), pathlib.Path('alexnet_jax', '__init__.py')
checkout = next((folder for folder in (here, *here.parents) if (folder / package).is_file()), None)
found = importlib.util.find_spec('alexnet_jax')
if checkout:
  os.chdir(checkout)
  sys.path.insert(0, str(checkout))
  if not importlib.util.find_spec('jax'):
    raise ModuleNotFoundError(f'run `pip install -r requirements.txt` with {sys.executable}')
elif not (found and found.origin):  # a folder of this name is no package
  # TPUs are /dev/accel0 and so on, or /dev/vfio/0 and so on. /dev/vfio/vfio exists without a TPU too.
  tpus = glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')
  accelerator = 'gpu-cuda12' if shutil.which('nvidia-smi') else 'tpu' if tpus else ''
  print({'': 'no accelerator: the CPU is used', 'tpu': 'a TPU'}.get(accelerator, 'a GPU'))
  extras = ','.join(filter(None, ('data', 'report', accelerator)))
  address = f'alexnet-jax[{extras}] @ git+https://github.com/{REPOSITORY}@{BRANCH}'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', address], check=True)
  # Colab has imported some packages already; their files may now belong to another version.
  imported = {'numpy': 'numpy', 'pillow': 'PIL', 'matplotlib': 'matplotlib'}
  if any(
    module in sys.modules and sys.modules[module].__version__ != importlib.metadata.version(name)
    for name, module in imported.items()
  ):
    print('Installed. The session restarts now; then run all cells again.')
    os.kill(os.getpid(), signal.SIGKILL)
