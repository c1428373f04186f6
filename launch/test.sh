#!/usr/bin/env bash
# Checks style and types and runs all tests but the nightly ones, two files at a time.
# Arguments go to pytest, for example: ./launch/test.sh tests/objectives/test_golden.py
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
run .venv/bin/ruff check .
run .venv/bin/ruff format --check .
run .venv/bin/pyright --pythonpath .venv/bin/python
# In the order of tests/conftest.py: files that take long are not the last.
run .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${args[@]+"${args[@]}"}
