#!/usr/bin/env bash
# Runs the tests, after installing what they need.
#   bash launch/test.sh [--all | --long] [pytest options]
# Without a flag it runs the quick tests, which take minutes. --all runs the long tests too: real runs that are
# killed, several processes, the notebooks. --long runs the long tests alone. TEST_WORKERS sets the number
# of processes (2).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-test.txt

tier=(-m 'not long')
case ${1:-} in
  --all) tier=() && shift ;;
  --long) tier=(-m long) && shift ;;
esac
# An empty array is an error in the bash of macOS, hence the "+".
python -m pytest -n "${TEST_WORKERS:-2}" ${tier[@]+"${tier[@]}"} "$@"
