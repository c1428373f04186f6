#!/usr/bin/env bash
# Trains on this machine, all its devices in one process; resumes when preempted.
#   ./launch/local.sh [--dry_run] --config=configs/mac.py [--config.steps=100 ...]
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
requeue .venv/bin/python -m vtr_jax.main ${args[@]+"${args[@]}"}
