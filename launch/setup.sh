#!/usr/bin/env bash
# Sourced by the other scripts, or run by itself: goes to the project's root, makes .venv
# if there is none, installs requirements.txt into it, and JAX's plugin (accelerator.sh),
# and sets what CPU runs profit from.
# shellcheck source=launch/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$@"
# shellcheck source=launch/accelerator.sh
source launch/accelerator.sh

find_python() {
  local name
  for name in python3.13 python3.14 python3.12 python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
      2>/dev/null; then
      echo "$name"
      return
    fi
  done
  if command -v uv >/dev/null; then
    echo 3.13 # which uv fetches
    return
  fi
  echo "no Python 3.11 to 3.14 found: install one, or uv, which fetches one; run this again" >&2
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
  else
    .venv/bin/python -m pip --version >/dev/null 2>&1 || run "$python" -m venv .venv
  fi
  into_venv -r requirements.txt
  run cp requirements.txt "$mark"
}

install
install_accelerator

# XLA gives large buffers back to the system after every step on CPU, and faults them
# in again: keeping them makes a step 1.3 to 1.4 times faster (docs/performance.md).
glibc=glibc.malloc
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$glibc.hugetlb=1:$glibc.mmap_threshold=4294967296:$glibc.trim_threshold=17179869184}"
