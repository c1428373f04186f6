#!/usr/bin/env bash
# The long tests: kills, storms, soaks, thousands of mutated files; then the others again,
# with types checked at every call. What they measure is written to docs/nightly.txt, also
# where one fails. Arguments go to pytest. With pip-audit installed in .venv, the packages
# are audited too.
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
tests() {
  run .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
}
{
  echo "revision $(git rev-parse HEAD 2>/dev/null || echo unknown), $(nproc) cores"
  status=0
  # Memory and time are measured here: types are not checked.
  VTR_TYPECHECK=0 tests -m nightly --durations=15 ${args[@]+"${args[@]}"} || status=$?
  # 5: none of the selected tests runs by day.
  VTR_TYPECHECK=all tests ${args[@]+"${args[@]}"} || { code=$?; [ $code = 5 ] || status=$code; }
  exit $status
} 2>&1 | tee docs/nightly.txt
