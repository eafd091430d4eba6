#!/bin/bash
# A SLURM job of several nodes: `sbatch docs/cluster/slurm.sh` in the folder of the repository.
# Change every value whose comment says CHANGE.
#SBATCH --job-name=nn_lib
#SBATCH --partition=gpu              # CHANGE: a partition of your cluster (`sinfo`)
#SBATCH --account=my_project         # CHANGE: what your time is charged to, or remove the line
#SBATCH --nodes=2                    # CHANGE: how many nodes
#SBATCH --ntasks-per-node=8          # CHANGE: GPUs of a node; JAX takes one process per GPU
#SBATCH --gres=gpu:8                 # CHANGE: the same number, by your cluster's name for GPUs
#SBATCH --cpus-per-task=8            # CHANGE: cores of a node / GPUs of a node, to read the data
#SBATCH --time=24:00:00              # CHANGE: at most this long
#SBATCH --signal=TERM@120            # two minutes before the end every process is told to save
#SBATCH --requeue                    # after a preemption the same job starts again, and continues
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

source .venv/bin/activate            # CHANGE: where `pip install -e '.[cuda12]'` was done

WORKDIR=/scratch/$USER/resnet50      # CHANGE: a folder that every node sees
DATA_DIR=/scratch/$USER/tfds         # CHANGE: the prepared data, seen by every node

# CHANGE: your config and its overrides. The batch is a multiple of the number of GPUs; this one is
# four times that of the recipe: a quarter of the steps at four times the rate (docs/scaling.md).
TRAIN=(
    --config=configs/imagenet.py:resnet50
    --config.data.data_dir="$DATA_DIR"
    --config.batch_size=1024
    --config.num_steps=112590            # 90 epochs of 1,251 steps
    --config.optimizer.learning_rate=0.4
    --config.optimizer.warmup_steps=6255 # 5 epochs
    --config.eval_every=1251
    --config.checkpoint_every=1251
)

# --kill-on-bad-exit ends all when one fails; the same command continues from the last checkpoint.
# Since SLURM 22.05 srun does not take --cpus-per-task from above by itself.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python -m experiments.train --distributed "${TRAIN[@]}" --workdir="$WORKDIR"

# Several GPUs for each task instead of one: set --ntasks-per-node=1, --gpus-per-task=8, and name
# them all: `export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7` before srun.
