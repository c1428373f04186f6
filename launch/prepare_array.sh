#!/usr/bin/env bash
# Prepares a data set as a Slurm array, one part a task, and puts it together at the
# end. All tasks need the same directories. Arguments go to vtr_jax.prepare:
#   sbatch --array=0-15 --cpus-per-task=8 launch/prepare_array.sh \
#     --format=webvid --source=/videos --annotations=/train.csv --out=/data --name=webvid
# Then the merge, which starts when all tasks have ended well (JOB is the array's number):
#   sbatch --dependency=afterok:JOB launch/prepare_array.sh --merge --out=/data --name=webvid
# A task that was killed or requeued resumes; after failures, submit the
# whole array again: what is done takes no time.
#SBATCH --job-name=vtr_prepare
#SBATCH --requeue
#SBATCH --output=prepare-%A-%a.log
set -euo pipefail
# Slurm runs a copy of this file: the project is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
python=.venv/bin/python
[ -x "$python" ] || { echo "no .venv here: run ./launch/setup.sh first" >&2; exit 2; }

# Indices must be 0 to n-1: every part has to be made by one task.
part=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  # shellcheck disable=SC2153
  if [ "$SLURM_ARRAY_TASK_MIN" != 0 ] ||
    [ "$((SLURM_ARRAY_TASK_MAX + 1))" != "$SLURM_ARRAY_TASK_COUNT" ]; then
    echo "use --array=0-N without gaps (%M after it limits how many run at once)" >&2
    exit 2
  fi
  part=("--shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
fi
exec "$python" -m vtr_jax.prepare "${part[@]}" \
  --workers="${SLURM_CPUS_PER_TASK:-0}" "$@"
