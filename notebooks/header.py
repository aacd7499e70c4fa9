# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{NAME}.ipynb)

# %%
# Finds the checkout this notebook lies in; elsewhere, as in Colab, installs the package, with the JAX of
# the accelerator that is there (Runtime > Change runtime type).
import glob
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

# TPUs are /dev/accel0 ..., those of v5e and v6e /dev/vfio/0 ...; /dev/vfio/vfio is there without one too.
tpus = glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')
accelerator = 'gpu-cuda12' if shutil.which('nvidia-smi') else 'tpu' if tpus else ''
here = pathlib.Path.cwd()
checkout = next((p for p in (here, *here.parents) if (p / 'alexnet_jax').is_dir()), None)
if checkout:
  os.chdir(checkout)
  sys.path.insert(0, str(checkout))
elif not importlib.util.find_spec('alexnet_jax'):
  package = f'alexnet-jax[{accelerator}]' if accelerator else 'alexnet-jax'
  address = f'{package} @ git+https://github.com/{REPOSITORY}@{BRANCH}'
  subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', address], check=True)
print({'': 'no accelerator: the processor will do', 'tpu': 'a TPU'}.get(accelerator, 'a GPU'))
