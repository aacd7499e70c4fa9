#!/usr/bin/env bash
# Trains configs/quickstart.py on the embedded photographs and evaluates the result.
#   bash launch/quickstart.sh [WORKDIR]      (default: runs/quickstart in the checkout)
# Progress goes to stderr. The last line on stdout is the JSON of the evaluation. Repeat the command to resume.
set -euo pipefail
workdir=${1:+$(realpath -m "$1")}
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
workdir=${workdir:-$PWD/runs/quickstart}

python main.py --config=configs/quickstart.py --workdir="$workdir"
# The latest checkpoint is evaluated: the best one was selected on the same images, which would bias the error.
python main.py --mode=eval --workdir="$workdir" --checkpoint=latest
