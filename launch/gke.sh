#!/usr/bin/env bash
# Trains on TPUs or GPUs of a GKE cluster by xpk (pip install xpk): builds an image of this
# folder, submits the workload, follows it.
#   NAME=vtr CLUSTER=mine ZONE=us-east5-a PROJECT=p TYPE=v5litepod-256 SLICES=2 \
#     ./launch/gke.sh [--dry_run] --config=configs/mac.py:webvid2m_cc3m --workdir=/gcs/runs/vtr
# Paths must be on storage that all pods share (`xpk storage attach`, here /gcs). A pod that
# ends with 85 was told to stop and has saved; xpk restarts the workload.
# shellcheck source=launch/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$@"
for setting in NAME CLUSTER ZONE PROJECT TYPE; do need "$setting" "see the head of this file"; done

# The image may hold this machine's .venv.
command="cd /app && rm -rf .venv && $(setup_there tpu) && exec .venv/bin/python -u -m vtr_jax.main $(printf '%q ' "${args[@]}")"
run xpk workload create "--workload=$NAME" "--cluster=$CLUSTER" "--zone=$ZONE" \
  "--project=$PROJECT" "--tpu-type=$TYPE" "--num-slices=${SLICES:-1}" \
  --base-docker-image=python:3.12 --script-dir=. "--max-restarts=${RESTARTS:-100}" \
  --restart-on-exit-codes=85 "--command=$command"
run xpk workload list "--cluster=$CLUSTER" "--zone=$ZONE" "--project=$PROJECT" \
  "--wait-for-job-completion=$NAME"
