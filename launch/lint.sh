#!/usr/bin/env bash
# Runs every linter, after installing them. pre-commit and continuous integration run this script.
#   bash launch/lint.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt

ruff check .
ruff format --check .
mypy
# Both tools are programs in PyPI packages, which are not built for every platform.
if command -v shellcheck >/dev/null; then
  # -x and -P: read setup.sh too, from beside the script or from the checkout.
  shellcheck -x -P SCRIPTDIR -P . launch/*.sh launch/*.sbatch .ci/run
fi
if command -v hadolint >/dev/null; then
  hadolint launch/Dockerfile
fi
check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
