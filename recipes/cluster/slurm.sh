#!/bin/bash
# esft on a cluster with Slurm: a rank a GPU, on two machines of four.
#   sbatch recipes/cluster/slurm.sh tune arc-qwen2.5-1.5b --run-dir runs/arc
#   sbatch recipes/cluster/slurm.sh resume runs/arc
#SBATCH --job-name=esft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    --max-restarts 3 -m esft "$@"
