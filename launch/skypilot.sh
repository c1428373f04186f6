#!/usr/bin/env bash
# Trains on whatever cloud has the accelerator, by SkyPilot (pip install skypilot): a
# managed job, which is restarted elsewhere when spot capacity is taken away.
#   ACCELERATORS=H100:8 NODES=2 BUCKET=s3://my-bucket \
#     ./launch/skypilot.sh [--dry_run] --config=configs/mac.py:webvid2m_cc3m
# The bucket is mounted at /bucket: data in /bucket/data, the run in /bucket/runs/NAME.
# shellcheck source=launch/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$@"
for setting in ACCELERATORS BUCKET; do need "$setting" "see the head of this file"; done
name=${NAME:-vtr-jax}
case "$ACCELERATORS" in tpu-*) plugin=tpu ;; *) plugin=cuda12 ;; esac

given --config.data.dir || args+=(--config.data.dir=/bucket/data)
task=$(mktemp --suffix=.yaml)
trap 'rm -f "$task"' EXIT
cat >"$task" <<YAML
name: $name
workdir: .
num_nodes: ${NODES:-1}
resources:
  accelerators: $ACCELERATORS
  use_spot: ${SPOT:-true}
  job_recovery: {recover_on_exit_codes: [85]}
file_mounts:
  /bucket: {source: $BUCKET, mode: MOUNT}
setup: |
  $(setup_there "$plugin")
run: |
  .venv/bin/python -u -m vtr_jax.main --coordinator=\$(echo "\$SKYPILOT_NODE_IPS" | head -n1):12321 \\
    --num_processes=\$SKYPILOT_NUM_NODES --process_id=\$SKYPILOT_NODE_RANK \\
    --workdir=/bucket/runs/$name $(printf '%q ' "${args[@]}")
YAML
[ -z "$dry_run" ] || cat "$task"
run sky jobs launch --yes "$task"
