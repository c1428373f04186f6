#!/usr/bin/env bash
# Trains SimVTP on the embedded data set and retrieves with what it learned.
# Arguments go to vtr_jax.main, for example: ./launch/demo.sh --config.steps=100
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
run .venv/bin/python -m vtr_jax.main --config=configs/simvtp.py ${args[@]+"${args[@]}"}
