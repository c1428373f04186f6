#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice: asks for it, installs, runs on all hosts, follows the
# first one's output, and deletes the slice in the end. Preempted, it asks again.
#   NAME=vtr ZONE=us-central2-b TYPE=v4-32 RUNTIME=tpu-ubuntu2204-base BUCKET=my-bucket \
#     ./launch/tpu_pod.sh [--dry_run] --config=configs/mac.py:webvid2m_cc3m
# Prepared data are read from gs://BUCKET/data, and the run is written to
# gs://BUCKET/runs/NAME; nothing is mounted. SPOT=1 asks for spot capacity, KEEP=1 leaves
# the slice when all is done; after an error it stays too, and costs, until it is deleted.
# Needs gcloud, logged in, with a project.
# shellcheck source=launch/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$@"
for setting in NAME ZONE TYPE RUNTIME BUCKET; do need "$setting" "see the head of this file"; done
tpu() { run gcloud compute tpus "$@" "--zone=$ZONE" --quiet; }
on_all() { tpu tpu-vm ssh "$NAME" --worker=all "--command=$1"; }
state() {
  gcloud compute tpus queued-resources describe "$NAME" "--zone=$ZONE" "--format=value(state.state)"
}

ask() {
  local now
  tpu queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$TYPE" \
    "--runtime-version=$RUNTIME" ${SPOT:+--spot} || return 1
  [ -z "$dry_run" ] || return 0
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case "$now" in "" | FAILED | SUSPEND*) echo "$NAME: $now" >&2; return 1 ;; esac
    sleep 30
  done
}

release() { tpu queued-resources delete "$NAME" --force; }

install() {
  run tar --exclude=.venv --exclude=.git --exclude=./data --exclude=./runs -czf \
    /tmp/vtr_jax.tgz . || return 1
  tpu tpu-vm scp /tmp/vtr_jax.tgz "$NAME:" --worker=all || return 1
  on_all "mkdir -p vtr_jax && tar -xzf vtr_jax.tgz -C vtr_jax && cd vtr_jax \
&& $(setup_there tpu) && .venv/bin/python -m pip install -q gcsfs"
}

train() {
  local data=
  given --config.data.dir || data="--config.data.dir=gs://$BUCKET/data"
  on_all "cd vtr_jax && .venv/bin/python -u -m vtr_jax.main --coordinator=auto \
--workdir=gs://$BUCKET/runs/$NAME $(printf '%q ' "${args[@]}")$data"
}

# Releases what it holds, and asks again, as long as that is taken away.
code=85
while [ "$code" != 0 ]; do
  code=0
  { ask && install; } || { code=1 && break; }
  train || code=$?
  # A slice that was taken away leaves ssh with 255.
  [ "$code" = 0 ] || [ "$code" = 85 ] || [ "$code" = 255 ] || break
  if [ "$code" != 0 ] || [ -z "${KEEP:-}" ]; then release; fi
done
[ "$code" = 0 ] ||
  echo "ended with $code; $NAME stays: gcloud compute tpus queued-resources delete $NAME" >&2
exit "$code"
