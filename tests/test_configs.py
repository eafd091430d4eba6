"""Every config trains."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import cifar10
from nn_lib.data import builders, images
from nn_lib.data.builders import python_tokens
from nn_lib.models import VGG, CharLM, ResNet
from nn_lib.train import fit
from nn_lib.train.run import Run
from tests.test_codec import CONFIGS

pytestmark = pytest.mark.usefixtures("undrawn")

SMALLER = {
    "configs.cifar10": "generated_images/small",
    "configs.imagenet": "generated_images/varying",
    "configs.imagenette": "generated_images/varying",
}
# One of almost every file here, the others, and what is slow to compile, in the slow tests.
LATER = ("configs.addition", "configs.imagenet", "configs.imagenette", "configs.pronunciation")
FIRST = [
    (module, variant)
    for module, variant in CONFIGS
    if variant == module.VARIANTS[0] and module.__name__ not in LATER
]
REST = [pytest.param(*pair, marks=pytest.mark.slow) for pair in CONFIGS if pair not in FIRST]


@pytest.mark.parametrize(("module", "variant"), [*FIRST, *REST])
def test_every_config_takes_one_shrunk_step(
    module, variant, few_examples_to_remember, generated_images, few_words
):
    config = module.get_config(variant)
    if module.__name__ in SMALLER:  # prepared sets, and networks that take minutes to compile
        config.data.name, config.data.data_dir = SMALLER[module.__name__], generated_images
        config.optimizer.schedule = "constant"  # plateau wants a validation split
        config.optimizer.warmup_steps = 0
        if isinstance(config.model, ResNet):
            config.model = config.model.clone(stage_sizes=(1, 1), width=4)
        if isinstance(config.model, VGG):
            config.model = config.model.clone(widths=(4, 4, 4, 4, 4), hidden=8)
    if module.__name__ == "configs.mnist":  # needs a prepared set; digits have its kind of images
        config.data.name = "digits"
        config.data.prepare = upscale_rows if variant == "rows" else upscale
    if config.data.name.startswith(("add", "copy_memory", "python_tokens")):
        config.data.data_dir = few_examples_to_remember
    if module.__name__ == "configs.pronunciation":  # needs a dictionary
        config.data.path = few_words
    of_characters = isinstance(config.model, CharLM)
    if of_characters:
        config.model = config.model.clone(cell=config.model.cell.clone(features=4))
        config.data.sequence_length = min(8, config.data.sequence_length)
    batch_size = min(4, config.batch_size)
    config = dataclasses.replace(
        config, batch_size=batch_size, num_steps=1, eval_every=0, log_every=1
    )
    if not of_characters and config.data.path is None:
        config.data.train_split = "train[:8]"
    config.data.validation_split = ""
    config.evaluate_with = "last"
    run = Run.prepare(config)
    before = jax.tree.map(np.array, run.initial_state.params)
    after, _ = run.train_step(run.initial_state, run.batches.at(0))
    assert int(after.skipped_steps) == 0 and int(after.step) == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after.params)
    assert any(jax.tree.leaves(moved))


@pytest.fixture(scope="module")
def few_examples_to_remember(tmp_path_factory):
    """Data sets that take seconds to make, made small, in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for builder in (builders.Adding, builders.CopyMemory, builders.Addition):
            patch.setattr(builder, "SIZES", [(split, 20) for split, _ in builder.SIZES])
        modules = ("abc", "token", "keyword", "stat", "bisect", "colorsys", "sched", "reprlib")
        patch.setattr(python_tokens, "MODULES", (*modules, "fnmatch", "queue"))
        yield str(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def few_words(tmp_path_factory):
    """A dictionary of a few words, and its path."""
    file = tmp_path_factory.mktemp("words") / "cmudict"
    file.write_text("".join(f"a{'b' * n} AH{n % 3}{' B' * (n % 5)}\n" for n in range(60)))
    return str(file)


def upscale(images):
    """8x8 digits as the 32x32 that LeNet expects."""
    return images.repeat(4, 1).repeat(4, 2).astype(np.float32)


def upscale_rows(images):
    return upscale(images)[..., 0]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cifarnet", "resnet20"])
def test_cifars_networks_learn_generated_images(tmp_path, generated_images, variant):
    config = cifar10.get_config(variant)
    config.data.name, config.data.data_dir = "generated_images/small", generated_images
    config.optimizer.schedule = "constant"
    config.optimizer.learning_rate = 0.02
    config = dataclasses.replace(
        config, batch_size=32, num_steps=120, eval_every=120, checkpoint_every=120, log_every=40
    )
    found = fit(config, tmp_path, quiet=True)
    assert found["test"]["accuracy"] > 0.9  # 0.25 by chance


def test_images_of_any_size_become_squares_with_their_middle():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40] = 255  # just right of the middle
    square = images.resize_and_crop(picture, 20)
    assert square.shape == (20, 20, 3)
    assert square.sum((0, 2)).argmax() == 10
    same = images.resize_and_crop(picture[:, 20:60], 40)
    np.testing.assert_array_equal(same, picture[:, 20:60])
    assert images.resize_and_crop(np.zeros((31, 50, 1), np.uint8), 8).shape == (8, 8, 1)
