#!/usr/bin/env bash
# The long tests, one after the other: kills, storms, soaks, thousands of mutated files.
# What they measure is written to docs/nightly.txt. Arguments go to pytest.
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
run .venv/bin/python -m pip install --quiet --disable-pip-version-check pip-audit || true
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
  echo "revision $(git rev-parse HEAD 2>/dev/null || echo unknown), $(uname -m), $(nproc) cores"
  run .venv/bin/python -m pytest -m nightly --durations=15 ${args[@]+"${args[@]}"}
} 2>&1 | tee "$log"
run cp "$log" docs/nightly.txt
