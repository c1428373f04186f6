#!/usr/bin/env bash
# Sourced by the other scripts: goes to the project's root, makes .venv if there is
# none, installs requirements.txt into it, and sets what CPU runs profit from.
# shellcheck source=launch/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$@"

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "no Python 3.11 to 3.13 found: install one and run this again" >&2
  return 1
}

install() {
  # The copy says which requirements were installed; a second run has nothing to do.
  local mark=.venv/requirements.txt python
  if [ -x .venv/bin/python ] && cmp -s requirements.txt "$mark"; then
    return
  fi
  python=$(find_python)
  echo "installing requirements.txt into .venv: about 1.1 GB on disk, some minutes"
  if command -v uv >/dev/null; then
    [ -x .venv/bin/python ] || run uv venv --quiet --seed --python "$python" .venv
    run uv pip install --quiet --python .venv/bin/python -r requirements.txt
  else
    .venv/bin/python -m pip --version >/dev/null 2>&1 || run "$python" -m venv .venv
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      -r requirements.txt
  fi
  run cp requirements.txt "$mark"
}

install

# XLA gives large buffers back to the system after every step on CPU, and faults them
# in again: keeping them makes a step 1.3 to 1.4 times faster (docs/performance.md).
glibc=glibc.malloc
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$glibc.hugetlb=1:$glibc.mmap_threshold=4294967296:$glibc.trim_threshold=17179869184}"
