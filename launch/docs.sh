#!/usr/bin/env bash
# Builds the API reference, HTML made of the docstrings, after readying everything it needs.
#   bash launch/docs.sh [FOLDER]      (default: docs/api in the checkout)
set -euo pipefail
folder=${1:+$(realpath -m "$1")}
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt

folder=${folder:-$PWD/docs/api}
# Named one by one: pdoc leaves out what __all__ does not name.
modules=$(python -c 'import pkgutil, alexnet_jax as a
print(*(found.name for found in pkgutil.walk_packages(a.__path__, "alexnet_jax.")))')
# shellcheck disable=SC2086
python -m pdoc --docformat google --output-directory "$folder" alexnet_jax $modules
echo "$folder/index.html"
