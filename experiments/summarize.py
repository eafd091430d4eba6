"""Prints what a model holds and takes, layer by layer, without allocating it.

python -m experiments.summarize --model=ResNet50
python -m experiments.summarize --model=torchvision:googlenet --size=299
python -m experiments.summarize --config=configs/mnist1d.py:gru
python -m experiments.summarize --config=configs/cifar10.py:resnet20 --inputs=32,32,3 --classes=10
python -m experiments.summarize --lecture     (the lecture's tables beside the exact ones)
A config's data are read, since they fix the shape of its inputs and the number of classes, unless
both are given.
"""

import jax
import jax.numpy as jnp
from absl import flags

from experiments import command_line, config_files
from nn_lib import models
from nn_lib.analysis import googlenet_table, memory, summarize
from nn_lib.checks import UserError, nearest
from nn_lib.data import load
from nn_lib.data.batches import evaluation_batches
from nn_lib.interop import torchvision_model
from nn_lib.train.config import resolve

CONFIG = flags.DEFINE_string("config", "", "An experiment, as configs/mnist.py:lenet.")
MODEL = flags.DEFINE_string("model", "", "A convnet of nn_lib.models, or torchvision:NAME.")
SIZE = flags.DEFINE_integer("size", 0, "Pixels of the image; 0: the network's own.", lower_bound=0)
BATCH = flags.DEFINE_integer("batch", 1, "Examples.", lower_bound=1)
INPUTS = flags.DEFINE_list("inputs", [], "Shape of one example of a config, as 32,32,3.")
CLASSES = flags.DEFINE_integer("classes", 1000, "Classes where --inputs is given.", lower_bound=1)
LECTURE = flags.DEFINE_bool("lecture", False, "GoogLeNet's table and the memory of ResNet-50.")

# Networks of images by name, with the shape of one image.
COLOURED = (224, 224, 3)
IMAGES = {
    **{"LeNet5": (32, 32, 1), "LeNet5Original": (32, 32, 1), "CifarNet": (32, 32, 3)},
    **{"CifarResNet": (32, 32, 3), "AlexNet": (227, 227, 3), "GoogLeNet": COLOURED},
    **{f"VGG{depth}": COLOURED for depth in (11, 13, 16, 19)},
    **{f"ResNet{depth}": COLOURED for depth in (18, 34, 50, 101, 152)},
}


def main() -> None:
    if sum(map(bool, (CONFIG.value, MODEL.value, LECTURE.value))) != 1:
        raise UserError("name one of --config, --model and --lecture; as in --model=ResNet50")
    if LECTURE.value:
        print(googlenet_table.as_text(), memory.as_text(), sep="\n\n")
    elif CONFIG.value:
        print(of_config(CONFIG.value))
    else:
        print(of_model(MODEL.value))


def of_config(location: str):
    experiment = config_files.load_config(location)
    if INPUTS.value:
        if not all(side.isdigit() and int(side) for side in INPUTS.value):
            raise UserError(f"--inputs expects numbers, as in 32,32,3, got {INPUTS.value}")
        shape = (BATCH.value, *map(int, INPUTS.value))
        model = experiment.model
        if getattr(model, "num_classes", 0) is None:
            model = model.clone(num_classes=CLASSES.value)
        return summarize(model, jax.ShapeDtypeStruct(shape, jnp.float32))
    data = load(experiment.data)
    batch = next(evaluation_batches(data, "train", BATCH.value))
    inputs = jax.eval_shape(experiment.data.prepare_batch, batch)["inputs"]
    return summarize(resolve(experiment, data).model, inputs)


def of_model(name: str):
    library, _, rest = name.partition(":")
    if library == "torchvision":
        model, image = torchvision_model(rest), COLOURED
    elif name in IMAGES:
        model, image = getattr(models, name)(), IMAGES[name]
    else:
        choices = [*IMAGES, "torchvision:resnet50"]
        raise UserError(f"--model={name!r} is unknown; {nearest(name, choices)}")
    image = (SIZE.value, SIZE.value, image[-1]) if SIZE.value else image
    return summarize(model, jax.ShapeDtypeStruct((BATCH.value, *image), jnp.float32))


if __name__ == "__main__":
    command_line.run(main, required=())
