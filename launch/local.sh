#!/usr/bin/env bash
# Starts one run as N processes on this machine: a GPU for each where there are N, else all on the CPU.
#   bash launch/local.sh N [main.py arguments]
#   bash launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
# Relative paths start from the checkout. SIGTERM and Ctrl-C reach every process. The exit code is
# process 0's, or 3 where a signal killed it.
set -euo pipefail
processes=${1:-}
if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
  echo "error: N is '$processes', not a whole number from 1;" \
    'usage: bash launch/local.sh N [main.py arguments]' >&2
  exit 2
fi
shift
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt

if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
else
  mapfile -t gpus < <(nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p')
fi
# Too few GPUs: JAX must not look at them, since every process would take all of them.
[ "${#gpus[@]}" -ge "$processes" ] || export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

set -m # each process in a group of its own; and not deaf to Ctrl-C, as in a shell without job control
pids=()
forward() {
  local targets=("${pids[@]}")
  # Ctrl-C goes to whole process groups, as a terminal sends it; SIGTERM, main.py hands down by itself.
  [ "$1" = TERM ] || targets=("${targets[@]/#/-}")
  kill -s "$1" -- "${targets[@]}" || true
}
exec 3>&2 2>/dev/null # the processes write to 3; the shell would write "Killed" after their last line
# A signal that comes while processes are still being started is kept for when all are there.
early=
trap 'early=TERM' TERM HUP
trap 'early=INT' INT
for ((i = 0; i < processes; i++)); do
  [ "${#gpus[@]}" -lt "$processes" ] || export CUDA_VISIBLE_DEVICES="${gpus[i]}"
  python main.py "$@" --distributed --coordinator="127.0.0.1:$port" \
    --num_processes="$processes" --process_id="$i" </dev/null 2>&3 &
  pids+=("$!")
done
trap 'forward TERM' TERM HUP
trap 'forward INT' INT
[ -z "$early" ] || forward "$early"

for pid in "${pids[@]}"; do
  # A signal ends `wait` early: ask again until the process is gone.
  while kill -0 "$pid"; do wait "$pid" || true; done
done
status=0
wait "${pids[0]}" || status=$?
# 130 is main.py's own code for Ctrl-C; every other one from 128 is the shell's word for a signal.
if ((status >= 128 && status != 130)); then
  echo "error: process 0 was killed by signal $((status - 128))" >&3
  status=3
fi
exit "$status"
