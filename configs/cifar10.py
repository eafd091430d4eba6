"""CIFAR-10, or any set of 32x32 images in the layout of TFDS, by small convnets and ResNets.

Paper    He, Zhang, Ren & Sun 2016: ResNet-20 8.75 % test error; :cifarnet is the introductions'
Data     TFDS `cifar10`, prepared in --config.data.data_dir; another set by --config.data.name
Command  python -m experiments.train --config=configs/cifar10.py:resnet20 --workdir=runs/resnet20 \
             --config.data.data_dir=DIR
Variants :cifarnet (default) :resnet20 :resnet18
Hardware :cifarnet takes minutes on 2 CPU cores, the ResNets hours; a GPU is advised
Recipe   of the paper: weight decay 1e-4, momentum .9, batch 128, rate .1 divided by 10 at 32,000
         and 48,000 of 64,000 steps; pad by 4, crop, flip
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig, augment, images
from nn_lib.models import CifarNet, CifarResNet, ResNet18
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.train import Experiment

VARIANTS = ("cifarnet", "resnet20", "resnet18")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def get_config(arg: str = "cifarnet") -> Experiment:
    check_choice("configs/cifar10.py: variant", arg, VARIANTS)
    models = {
        "cifarnet": CifarNet(num_classes=None),
        "resnet20": CifarResNet(20, num_classes=None),
        "resnet18": ResNet18(num_classes=None, small_images=True),
    }
    small = arg == "cifarnet"
    return Experiment(
        model=models[arg],
        objective=classify,
        data=DataConfig(
            name="cifar10",
            prepare=functools.partial(images.standardize, mean=MEAN, std=STD),
            augment=None if small else augment.crop_and_flip,
        ),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.01 if small else 0.1,
            momentum=0.9,
            schedule="cosine" if small else "step",
            boundaries=() if small else (32_000, 48_000),
            weight_decay=1e-4,
        ),
        batch_size=128,
        num_steps=8_000 if small else 64_000,
        eval_every=1000,
        checkpoint_every=1000,
        log_every=100,
        select_by="accuracy",
        select_mode="max",
    )
