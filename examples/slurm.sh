#!/bin/bash
# A training on two machines with four GPUs each:
#
#     sbatch examples/slurm.sh --guide iaf --data mnist_static --epochs 2000
#
# Two minutes before the time is over SLURM sends SIGTERM: the run saves and stops, and the
# job queues itself again. One that fails for another reason is not queued again.
#SBATCH --job-name=vae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -u
out=runs/slurm-$SLURM_JOB_ID
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
resume=()
[ -f "$out/config.json" ] && resume=(--resume)

out_of_time=false
# srun itself would answer the signal by killing its tasks: it is for them.
trap 'out_of_time=true; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$head:29500" \
    examples/train.py --out "$out" "${resume[@]}" "$@" &
run=$!
wait "$run"
code=$?
if $out_of_time; then
    wait "$run"  # the signal has ended the first one
    scontrol requeue "$SLURM_JOB_ID"
else
    exit "$code"
fi
