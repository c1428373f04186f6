#!/usr/bin/env bash
# Trains as a Slurm job, one process a node (or a GPU: --ntasks-per-node). Arguments go to
# vtr_jax.main; the workdir must be on a file system that all nodes share.
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=configs/mac.py:webvid2m_cc3m
#   ./launch/slurm.sh --dry_run --config=...         prints what a node would run
# Slurm sends SIGTERM before the time is over: the run saves, ends with 85, and the job is
# put back into the queue.
#SBATCH --job-name=vtr_jax
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=vtr_jax-%j.log
set -euo pipefail
# Slurm runs a copy of this file: the project is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
# shellcheck source=launch/run.sh
source launch/run.sh "$@"
# shellcheck source=launch/accelerator.sh
source launch/accelerator.sh
if [ -z "$dry_run" ] && [ ! -x .venv/bin/python ]; then
  echo "no .venv here: run ACCELERATOR=cuda12 ./launch/setup.sh first" >&2
  exit 2
fi
install_accelerator

# JAX learns from Slurm who the others are. Slurm must not end the others with the first
# one, which has been preempted as they have; after an error they end by themselves.
code=0
run srun --kill-on-bad-exit=0 .venv/bin/python -u -m vtr_jax.main "${args[@]}" || code=$?
if [ "$code" = 85 ]; then
  run scontrol requeue "${SLURM_JOB_ID:-JOB}"
  exit 0
fi
exit "$code"
