#!/usr/bin/env bash
# Trains on this machine in several processes, as a pod of hosts does; for trying that
# out, or for one process a GPU:
#   NUM_PROCESSES=2 ./launch/processes.sh [--dry_run] --config=configs/mac.py:smoke
#   NUM_PROCESSES=8 DEVICES=CUDA ./launch/processes.sh ...    process i sees GPU i alone
# Ends with the worst exit code; 85 starts all of them again.
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "$@"
need NUM_PROCESSES "how many processes"
port=${PORT:-12321}

all() {
  local i code=0 worst=0 started=()
  for ((i = 0; i < NUM_PROCESSES; i++)); do
    local command=(.venv/bin/python -m vtr_jax.main "--coordinator=127.0.0.1:$port"
      "--num_processes=$NUM_PROCESSES" "--process_id=$i" ${args[@]+"${args[@]}"})
    [ "${DEVICES:-}" != CUDA ] || command=(env "CUDA_VISIBLE_DEVICES=$i" "${command[@]}")
    if [ -n "$dry_run" ]; then
      run "${command[@]}"
    else
      run "${command[@]}" &
      started+=($!)
    fi
  done
  for i in ${started[@]+"${started[@]}"}; do
    code=0
    wait "$i" || code=$?
    # Preempted is the best of bad ends: another one's reason counts more.
    if [ "$code" != 0 ] && { [ "$worst" = 0 ] || [ "$worst" = 85 ]; }; then worst=$code; fi
  done
  return "$worst"
}

code=85
while [ "$code" = 85 ]; do
  code=0
  all || code=$?
done
exit "$code"
