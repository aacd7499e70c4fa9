# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{NAME}.ipynb)

# %%
# This cell finds the checkout that contains this notebook. Elsewhere, as in Colab, it installs the package
# with the JAX for the available accelerator (Runtime > Change runtime type).
import glob
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

# TPUs are /dev/accel0 and so on, or /dev/vfio/0 and so on. /dev/vfio/vfio exists without a TPU too.
tpus = glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')
accelerator = 'gpu-cuda12' if shutil.which('nvidia-smi') else 'tpu' if tpus else ''
here = pathlib.Path.cwd()
checkout = next((p for p in (here, *here.parents) if (p / 'alexnet_jax').is_dir()), None)
if checkout:
  os.chdir(checkout)
  sys.path.insert(0, str(checkout))
elif not importlib.util.find_spec('alexnet_jax'):
  extras = ','.join(filter(None, ('data', 'report', accelerator)))
  package = f'alexnet-jax[{extras}]'
  address = f'{package} @ git+https://github.com/{REPOSITORY}@{BRANCH}'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', address], check=True)
print({'': 'no accelerator: the CPU is used', 'tpu': 'a TPU'}.get(accelerator, 'a GPU'))
