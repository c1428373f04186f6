#!/usr/bin/env bash
# The long tests: kills, storms, soaks, thousands of mutated files. What they measure is
# written to docs/nightly.txt, also where one fails. Arguments go to pytest. With pip-audit
# installed in .venv, the packages are audited too.
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
# Memory and time are measured here; ./launch/test.sh checks types at every call.
export VTR_TYPECHECK=0
{
  echo "revision $(git rev-parse HEAD 2>/dev/null || echo unknown), $(nproc) cores"
  run .venv/bin/python -m pytest -m nightly -n 2 --dist loadfile --no-loadscope-reorder \
    --durations=15 ${args[@]+"${args[@]}"}
} 2>&1 | tee docs/nightly.txt
