#!/usr/bin/env bash
# Passes the tests, after readying everything they need.
#   bash launch/test.sh [pytest options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt

python -m pytest -n "${TEST_WORKERS:-2}" "$@"
