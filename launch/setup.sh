# shellcheck shell=bash
# Sourced by the other scripts with the names of requirements files. It changes to the root of the checkout
# and prepares a Python environment with these requirements: the active virtual environment, else .venv in the
# checkout. constraints.txt fixes the tested version of every package; CONSTRAINTS= (empty) lets pip choose any
# version that the requirements allow. pip writes to stderr.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# The tasks of a job array may all start here at once.
if command -v flock >/dev/null && { : >>.setup.lock; } 2>/dev/null; then
  exec 9>>.setup.lock
  flock 9 || true # some network file systems have no locks
fi
is_supported='import sys; sys.exit(sys.version_info < (3, 11))'
version() { "$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null; }
# An environment that uv made has no pip.
has_pip() { "$1" -m pip --version >/dev/null 2>&1 || "$1" -m ensurepip --default-pip >/dev/null 2>&1; }
if [ -z "${VIRTUAL_ENV:-}" ] || [ ! -x "$VIRTUAL_ENV/bin/python" ]; then # none is active, or it was removed
  python=${PYTHON:-python3}
  make_it=
  if ! { [ -e .venv/bin/python ] || [ -L .venv/bin/python ]; }; then
    make_it=yes # there is no environment
  elif ! [ -e .venv/bin/activate ]; then
    if ! [ -e .venv/pyvenv.cfg ]; then
      echo 'error: .venv is not an environment of venv: activate it with the tool that made it, or remove it' >&2
      exit 2
    fi
    make_it=yes # its creation was interrupted
  elif [ -n "${PYTHON:-}" ]; then # a PYTHON that is named is used
    [ "$(version .venv/bin/python)" = "$(version "$python")" ] && has_pip .venv/bin/python || make_it=yes
  elif ! .venv/bin/python -c '' 2>/dev/null; then # it may start on another machine, so it is kept
    echo "error: .venv/bin/python does not start here: load the module that it was made with, or remove .venv" >&2
    exit 2
  fi
  if [ -n "$make_it" ]; then
    if ! "$python" -c "$is_supported" 2>/dev/null; then
      echo "error: $python is not Python 3.11 or newer; name one: PYTHON=python3.12 bash ..." >&2
      exit 2
    fi
    if ! "$python" -m venv --clear .venv; then
      echo "error: $python cannot make .venv; on Debian and Ubuntu, install the package python3-venv" >&2
      exit 2
    fi
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
if ! python -c "$is_supported"; then
  echo "error: the environment $VIRTUAL_ENV has a Python older than 3.11: leave it, or remove it if it is .venv" >&2
  exit 2
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
  if ! has_pip python || ! python -m pip install --disable-pip-version-check "${pip_args[@]}" >&2; then
    echo "error: the packages could not be installed for $(python -V) on $(uname -m). Python 3.11 and 3.12 on x86-64 are" \
      "tested; to use another Python, leave the environment and name it: PYTHON=python3.12 bash ..." >&2
    exit 2
  fi
  for file in "${changed[@]}"; do
    cat ${constraints:+"$constraints"} "$file" > "$VIRTUAL_ENV/.alexnet_jax_${file##*/}"
  done
fi
{ exec 9>&-; } 2>/dev/null  # the programs that follow do not hold the lock
