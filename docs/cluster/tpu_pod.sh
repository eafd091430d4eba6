#!/bin/bash
# A TPU pod slice of Google Cloud: the same command on all its hosts. Run it on your own machine,
# where gcloud is installed and logged in. Change every value whose comment says CHANGE.
set -euo pipefail

NAME=nn-lib                          # CHANGE: what the slice is called
PROJECT=my-project                   # CHANGE: your Google Cloud project
ZONE=us-central2-b                   # CHANGE: a zone that has the type
TYPE=v4-32                           # CHANGE: the type and size of the slice
VERSION=tpu-ubuntu2204-base          # CHANGE: the runtime version that belongs to the type
REPOSITORY=https://example.com/nn_lib.git  # CHANGE: where the hosts clone this repository from
SHARED=/mnt/nfs                      # CHANGE: a file system that all hosts have mounted

# CHANGE: your config and its overrides. The batch is a multiple of the number of chips; this one is
# four times that of the recipe: a quarter of the steps at four times the rate (docs/scaling.md).
TRAIN=(
    --config=configs/imagenet.py:resnet50
    --config.data.data_dir="$SHARED/tfds"
    --config.batch_size=1024
    --config.num_steps=112590            # 90 epochs of 1,251 steps
    --config.optimizer.learning_rate=0.4
    --config.optimizer.warmup_steps=6255 # 5 epochs
    --config.eval_every=1251
    --config.checkpoint_every=1251
    --workdir="$SHARED/runs/resnet50"    # CHANGE: a folder of that file system
)

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$NAME" --project="$PROJECT" --zone="$ZONE" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm create "$NAME" \
    --project="$PROJECT" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION"

# Ubuntu 22.04 comes with Python 3.10, and nn_lib needs 3.11 to 3.13: uv brings one.
on_all_hosts "git clone $REPOSITORY nn_lib && cd nn_lib &&
    python3 -m pip install --user uv && python3 -m uv venv --python 3.12 .venv &&
    python3 -m uv pip install --python .venv/bin/python -e '.[tpu]'"

# --distributed finds the other hosts by itself. The same line again continues the run.
on_all_hosts "cd nn_lib && .venv/bin/python -m experiments.train --distributed ${TRAIN[*]}"

# A slice costs until it is deleted:
#   gcloud compute tpus tpu-vm delete "$NAME" --project="$PROJECT" --zone="$ZONE"
