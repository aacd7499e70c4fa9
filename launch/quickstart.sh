#!/usr/bin/env bash
# Trains configs/quickstart.py on the embedded photographs and evaluates it.
#   bash launch/quickstart.sh [WORKDIR]      (default: runs/quickstart in the checkout)
# Progress goes to stderr; the last line on stdout is the evaluation's JSON. Run again to resume.
set -euo pipefail
workdir=${1:+$(realpath -m "$1")}
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
workdir=${workdir:-$PWD/runs/quickstart}

python main.py --config=configs/quickstart.py --workdir="$workdir"
# The last checkpoint, not the best: that one is chosen on the very images that measure it.
python main.py --mode=eval --workdir="$workdir" --checkpoint=latest
