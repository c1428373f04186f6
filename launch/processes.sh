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

# Waits for all processes; `worst` is then the worst exit code.
started=() worst=0
finish() {
  local i code
  worst=0
  for i in ${started[@]+"${started[@]}"}; do
    code=0
    wait "$i" || code=$?
    # Preempted is the best of bad ends: another one's reason counts more.
    if [ "$code" != 0 ] && { [ "$worst" = 0 ] || [ "$worst" = 85 ]; }; then worst=$code; fi
  done
}

# Background processes ignore Ctrl-C: it is forwarded as SIGTERM, so the run saves and
# ends. They have sessions of their own, since a second SIGTERM ends a run at once, and
# one that was sent to the whole group would reach them twice.
stop() {
  kill ${started[@]+"${started[@]}"} 2>/dev/null || :
  finish
}
trap 'stop; exit 130' INT
trap 'stop; exit "$worst"' TERM HUP

while :; do
  started=()
  for ((i = 0; i < NUM_PROCESSES; i++)); do
    command=(.venv/bin/python -m vtr_jax.main "--coordinator=127.0.0.1:$port"
      "--num_processes=$NUM_PROCESSES" "--process_id=$i" ${args[@]+"${args[@]}"})
    [ "${DEVICES:-}" != CUDA ] || command=(env "CUDA_VISIBLE_DEVICES=$i" "${command[@]}")
    dry_run=1 run "${command[@]}"
    [ -n "$dry_run" ] && continue
    # Not by `run`: a signal to $! must reach the command, not a shell that waits for it.
    setsid "${command[@]}" &
    started+=($!)
  done
  finish
  [ "$worst" = 85 ] || exit "$worst"
done
