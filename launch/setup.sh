# shellcheck shell=bash
# Sourced by the other scripts with the names of requirements files. It changes to the root of the checkout
# and prepares a Python environment with these requirements: the active virtual environment, else .venv in the
# checkout. constraints.txt fixes the tested version of every package; CONSTRAINTS= (empty) lets pip choose any
# version that the requirements allow. pip writes to stderr.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

if [ -z "${VIRTUAL_ENV:-}" ]; then
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or newer; name one: PYTHON=python3.12 bash ..." >&2
    exit 2
  fi
  # --clear: an environment whose creation was interrupted has no pip.
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

# A copy of each installed requirements file, with the constraints, lies in the environment. pip runs only for
# files that have changed since.
constraints=${CONSTRAINTS-constraints.txt}
pip_args=() && [ -z "$constraints" ] || pip_args=(-c "$constraints")
changed=()
for file in "$@"; do
  cat ${constraints:+"$constraints"} "$file" | cmp -s - "$VIRTUAL_ENV/.alexnet_jax_${file##*/}" ||
    changed+=("$file")
done
if [ "${#changed[@]}" -gt 0 ]; then
  for file in "${changed[@]}"; do pip_args+=(-r "$file"); done
  python -m pip install --disable-pip-version-check "${pip_args[@]}" >&2
  for file in "${changed[@]}"; do
    cat ${constraints:+"$constraints"} "$file" > "$VIRTUAL_ENV/.alexnet_jax_${file##*/}"
  done
fi
