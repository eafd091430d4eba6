#!/bin/bash
# A TPU pod slice of Google Cloud: the same command on all its hosts. Run it on your own machine,
# where gcloud is installed and logged in. Change every value that has a comment.
set -euo pipefail

NAME=nn-lib                          # CHANGE: what the slice is called
PROJECT=my-project                   # CHANGE: your Google Cloud project
ZONE=us-central2-b                   # CHANGE: a zone that has the type
TYPE=v4-32                           # CHANGE: the type and size of the slice
VERSION=tpu-ubuntu2204-base          # CHANGE: the runtime version that belongs to the type
REPOSITORY=https://example.com/nn_lib.git  # CHANGE: where the hosts clone this repository from
SHARED=/mnt/nfs                      # CHANGE: a file system that all hosts have mounted

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$NAME" --project="$PROJECT" --zone="$ZONE" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm create "$NAME" \
    --project="$PROJECT" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION"

on_all_hosts "git clone $REPOSITORY nn_lib && cd nn_lib &&
    python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'"

# --distributed finds the other hosts by itself. The same line again continues the run.
on_all_hosts "cd nn_lib && .venv/bin/python -m experiments.train --distributed \
    --config=configs/imagenet.py:resnet50 \
    --config.data.data_dir=$SHARED/tfds --config.batch_size=1024 --workdir=$SHARED/runs/resnet50"
# CHANGE in the line above: config and overrides (the batch a multiple of all chips), folders

# A slice costs until it is deleted:
#   gcloud compute tpus tpu-vm delete "$NAME" --project="$PROJECT" --zone="$ZONE"
