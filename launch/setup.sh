# shellcheck shell=bash
# Sourced by the other scripts: goes to the checkout, and readies a Python with the requirements in it.
# Uses the active virtual environment, else makes .venv in the checkout. pip's output goes to stderr.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

if [ -z "${VIRTUAL_ENV:-}" ]; then
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or newer; name one: PYTHON=python3.12 bash ..." >&2
    exit 2
  fi
  # --clear: a .venv whose making was stopped half-way has no pip.
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi

# Installs nothing, and asks no registry, when the same requirements are in already.
stamp="$VIRTUAL_ENV/.alexnet_jax_requirements"
if ! cat "$@" | cmp -s - "$stamp"; then
  args=()
  for file in "$@"; do args+=(-r "$file"); done
  python -m pip install --disable-pip-version-check "${args[@]}" >&2
  cat "$@" > "$stamp"
fi
