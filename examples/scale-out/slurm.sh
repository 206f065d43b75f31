#!/bin/sh
# sbatch slurm.sh: eight tasks, each a shard. A task that is preempted or requeued goes on where it was.
#SBATCH --job-name=quantize
#SBATCH --array=1-8
#SBATCH --requeue
#SBATCH --cpus-per-task=8
set -e
OUT=${OUT:-./name-hqq4}
npx lowbit quantize "${MODEL:-org/name}" -m hqq --out "$OUT" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --threads "$SLURM_CPUS_PER_TASK" --quiet
# Once, when all are done:
#   sbatch --dependency=afterok:JOBID --wrap "npx lowbit merge-shards $OUT"
