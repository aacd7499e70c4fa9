#!/usr/bin/env bash
# Trains on a Cloud TPU VM or slice from your own machine: it copies the current commit to every worker, installs
# the requirements there and runs main.py on all workers.
#   bash launch/tpu_vm.sh NAME ZONE [main.py arguments]
#   bash launch/tpu_vm.sh my-tpu us-central2-b --config=configs/alexnet.py:original --workdir=/mnt/shared/alexnet
# The workdir must be a folder that all workers share (a Filestore or other NFS mount); with one worker it may be
# any folder. The workers need Python 3.11 or newer with venv; PYTHON=python3.12 bash launch/... names it. For
# several workers gcloud requires its key in the agent: ssh-add ~/.ssh/google_compute_engine.
# The run does not depend on the connection: Ctrl-C, or a lost connection, ends only the output here. While a run is in
# progress, the same command shows its output again and starts nothing. To stop the run with a checkpoint:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='cd alexnet_jax_run; flock -n lock true || kill $(cat pid)'
# Each worker keeps the output of its latest run in alexnet_jax_run/log.
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

# On each worker a new run starts in the background, and its output is followed. gcloud repeats the command when a
# connection is lost, so a run that this start has begun, or that is still in progress, is only followed.
IFS= read -r -d '' worker <<'END' || true
mkdir -p alexnet_jax alexnet_jax_run
run=$PWD/alexnet_jax_run
exec 8>>"$run/lock" # the run holds the lock
if ! flock -n 8; then
  [ "$(cat "$run/start")" = "$start" ] || echo 'note: a run is in progress; this is its output' >&2
elif [ "$(cat "$run/start" 2>/dev/null)" != "$start" ]; then
  rm -f "$run/status" "$run/pid" "$run/result"
  : >"$run/log" # so that it can be followed at once
  echo "$start" >"$run/start"
  (
    trap '' HUP
    trap 'echo $? >"$run/status"; rm -f "$run/pid"' EXIT
    set -e
    tar -xzf alexnet_jax.tar.gz -C alexnet_jax
    cd alexnet_jax
    echo 'jax[tpu]' >requirements-tpu.txt
    source launch/setup.sh requirements.txt requirements-tpu.txt
    python main.py "${arguments[@]}" --distributed >"$run/result" &
    echo $! >"$run/pid"
    wait $!
  ) </dev/null >"$run/log" 2>&1 &
fi
exec 8>&-
flock "$run/lock" true & # ends after the run
tail -n +1 -f --pid=$! "$run/log" >&2
cat "$run/result" 2>/dev/null
exit "$(cat "$run/status" 2>/dev/null || echo 3)"
END
# %q quotes each argument, so that it reaches main.py unchanged.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
export PYTHON=$(printf '%q' "${PYTHON:-python3}")
start=$(date +%s)-$$
arguments=($(printf ' %q' "$@"))
$worker"
