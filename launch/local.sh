#!/usr/bin/env bash
# Starts one run as N processes on this machine, with one GPU for each process if there are N GPUs, else on the CPU.
#   bash launch/local.sh N [main.py arguments]
#   bash launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two
# Before the first use on GPUs, run:
#   python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -r requirements.txt 'jax[cuda13]'
# Paths are relative to the checkout. SIGTERM and Ctrl-C are forwarded to every process. The exit code is that
# of process 0, or 3 if a signal killed process 0.
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
# With fewer GPUs than processes JAX must not use any, because every process would reserve all of them.
[ "${#gpus[@]}" -ge "$processes" ] || export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

set -m # each process gets its own group, and Ctrl-C is not ignored as in a shell without job control
pids=()
forward() {
  local targets=("${pids[@]}")
  # Ctrl-C goes to whole process groups, as from a terminal; main.py forwards SIGTERM to its children itself.
  [ "$1" = TERM ] || targets=("${targets[@]/#/-}")
  kill -s "$1" -- "${targets[@]}" || true
}
exec 3>&2 2>/dev/null # the processes write to 3, so that messages of bash such as "Killed" do not follow their last line
# A signal that arrives while processes are being started is forwarded after the last start.
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
  # A signal interrupts `wait`: repeat it until the process has ended.
  while kill -0 "$pid"; do wait "$pid" || true; done
done
status=0
wait "${pids[0]}" || status=$?
# main.py exits with 130 on Ctrl-C; every other code from 128 is how bash reports a signal.
if ((status >= 128 && status != 130)); then
  echo "error: process 0 was killed by signal $((status - 128))" >&3
  status=3
fi
exit "$status"
