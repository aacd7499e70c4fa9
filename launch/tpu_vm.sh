#!/usr/bin/env bash
# Trains on a Cloud TPU VM or slice from your own machine: it copies the current commit to every worker, installs
# the requirements there and runs main.py on all workers.
#   bash launch/tpu_vm.sh NAME ZONE [main.py arguments]
#   bash launch/tpu_vm.sh my-tpu us-central2-b --config=configs/alexnet.py:original --workdir=/mnt/shared/alexnet
# The workdir must be a folder that all workers share (a Filestore or other NFS mount); with one worker it may be
# any folder. The workers need Python 3.11 or newer with venv; PYTHON=python3.12 bash launch/... names it. For
# several workers gcloud requires its key in the agent: ssh-add ~/.ssh/google_compute_engine.
# Ctrl-C ends the connection and not the run. To stop the run with a checkpoint:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='pkill -o -f "python main.py"'
set -euo pipefail
if [ $# -lt 3 ]; then
  echo 'error: too few arguments; usage: bash launch/tpu_vm.sh NAME ZONE --config=... --workdir=...' >&2
  exit 2
fi
name=$1 zone=$2
shift 2
if [[ " $*" == *=gs://* ]]; then
  echo 'error: gs:// is not supported: name a mounted folder, such as a Filestore share' >&2
  exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
[ -z "$(git status --porcelain)" ] || echo 'note: uncommitted changes are not copied' >&2
git archive --format=tar.gz -o "$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:alexnet_jax.tar.gz" --zone="$zone" --worker=all

# %q quotes each argument, so that it reaches main.py unchanged. exec replaces the shell, so that the signal
# above reaches main.py.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  set -e
  mkdir -p alexnet_jax
  tar -xzf alexnet_jax.tar.gz -C alexnet_jax
  cd alexnet_jax
  echo 'jax[tpu]' > requirements-tpu.txt
  export PYTHON=$(printf '%q' "${PYTHON:-python3}")
  source launch/setup.sh requirements.txt requirements-tpu.txt
  exec python main.py$(printf ' %q' "$@") --distributed"
