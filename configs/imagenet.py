"""ImageNet, or any set of images in the layout of TFDS, by the winners of ILSVRC.

Papers   Krizhevsky et al. 2012, Simonyan & Zisserman 2015, Szegedy et al. 2015, He et al. 2016
Data     TFDS `imagenet2012`, prepared in --config.data.data_dir; another set by --config.data.name
Command  python -m experiments.train --config=configs/imagenet.py:resnet50 --workdir=runs/resnet50 \
             --config.data.data_dir=DIR
Variants :alexnet :vgg16 :googlenet :resnet50 (default)
Hardware accelerators for days; on a CPU only with a set of a few hundred images
Recipes  Training cuts 8 to 100 % of the area, evaluation the middle of a shorter side of 256; both
         decode in a worker process per core (--config.data.workers). ResNet-50: 90 epochs, rate .1
         for 256 images with 5 epochs of warm-up, to 0 by a cosine (Goyal et al. 2017, He et al.
         2019), labels smoothed by .1, mixup of alpha .2. N times the batch wants N times the rate
         and an Nth of num_steps and warmup_steps (docs/scaling.md). AlexNet and VGG have the
         batch, momentum .9 and rate of their papers, divided by 10 when validation stalls. Other
         than in the papers: GoogLeNet's rate falls in the same way, and not by 4 % every 8 epochs;
         biases do not decay here, where AlexNet's and VGG's weight decay is of all parameters
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig, augment, images
from nn_lib.models import VGG16, AlexNet, GoogLeNet, ResNet50
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.train import Experiment

VARIANTS = ("resnet50", "alexnet", "vgg16", "googlenet")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPOCH = 5_004  # steps of 256 images
FLIP_AND_MIXUP = functools.partial(augment.flip_and_mixup, num_classes=None)  # those of the data


def get_config(arg: str = "resnet50") -> Experiment:
    check_choice("configs/imagenet.py: variant", arg, VARIANTS)
    # model, batch, learning rate, weight decay
    recipes = {
        "alexnet": (AlexNet(num_classes=None, groups=2, order="norm_pool"), 128, 1e-2, 5e-4),
        "vgg16": (VGG16(num_classes=None), 256, 1e-2, 5e-4),
        "googlenet": (GoogLeNet(num_classes=None, auxiliary=True), 128, 1e-2, 2e-4),
        "resnet50": (ResNet50(num_classes=None), 256, 0.1, 1e-4),
    }
    model, batch_size, learning_rate, weight_decay = recipes[arg]
    modern = arg == "resnet50"
    return Experiment(
        model=model,
        objective=functools.partial(classify, top=5, smoothing=0.1 if modern else 0.0),
        data=DataConfig(
            name="imagenet2012",
            test_split="",  # its labels are secret
            image_size=227 if arg == "alexnet" else 224,
            shorter_side=256,
            crop=images.random_resized_crop,
            workers=-1,
            prepare=functools.partial(images.standardize, mean=MEAN, std=STD),
            augment=FLIP_AND_MIXUP if modern else augment.flip,
        ),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule="cosine" if modern else "plateau",
            warmup_steps=5 * EPOCH if modern else 0,
        ),
        batch_size=batch_size,
        num_steps=90 * EPOCH if modern else 600_000,
        eval_every=5_000,
        checkpoint_every=5_000,
        log_every=100,
        select_by="accuracy",
        select_mode="max",
    )
