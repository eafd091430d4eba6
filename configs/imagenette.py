"""Imagenette, ten classes of ImageNet, by the recipe of ImageNet at a scale of hours.

Data     TFDS `imagenette` (9,469 photographs of varying size, 3,925 more for validation), prepared
         in --config.data.data_dir; --config.data.name=imagenette/160px-v2 reads the small ones
Command  python -m experiments.train --config=configs/imagenette.py --workdir=runs/imagenette \
             --config.data.data_dir=DIR
Variants :resnet18 (default) :resnet50
Hardware a GPU; on CPU cores with --config.data.image_size=128 --config.data.shorter_side=146
Recipe   that of configs/imagenet.py:resnet50, with batches of 64: 40 epochs, rate .025 with 2
         epochs of warm-up, to 0 by a cosine; labels smoothed by .1, mixup of alpha .2; random cuts
         of 8 to 100 % of the area, decoded in a worker process per core
"""

import functools

from configs.imagenet import FLIP_AND_MIXUP, MEAN, STD
from nn_lib.checks import check_choice
from nn_lib.data import DataConfig, images
from nn_lib.models import ResNet18, ResNet50
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.train import Experiment

VARIANTS = ("resnet18", "resnet50")
EPOCH = 148  # steps of 64 images


def get_config(arg: str = "resnet18") -> Experiment:
    check_choice("configs/imagenette.py: variant", arg, VARIANTS)
    model = {"resnet18": ResNet18(num_classes=None), "resnet50": ResNet50(num_classes=None)}[arg]
    return Experiment(
        model=model,
        objective=functools.partial(classify, smoothing=0.1),
        data=DataConfig(
            name="imagenette",
            image_size=224,
            shorter_side=256,
            crop=images.random_resized_crop,
            workers=-1,
            prepare=functools.partial(images.standardize, mean=MEAN, std=STD),
            augment=FLIP_AND_MIXUP,
        ),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.025,
            weight_decay=1e-4,
            schedule="cosine",
            warmup_steps=2 * EPOCH,
        ),
        batch_size=64,
        num_steps=40 * EPOCH,
        eval_every=5 * EPOCH,
        checkpoint_every=5 * EPOCH,
        log_every=50,
        select_by="accuracy",
        select_mode="max",
    )
