#!/usr/bin/env bash
# Builds the documentation site, after installing everything that the build needs.
#   bash launch/docs.sh [FOLDER]      (default: docs/_build in the checkout)
# A warning is an error. Only the installation needs a network.
set -euo pipefail
folder=${1:+$(realpath -m "$1")}
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-docs.txt

folder=${folder:-$PWD/docs/_build}
python -m sphinx -W --keep-going -E -q -d "$folder/.doctrees" docs "$folder"
echo "$folder/index.html"
