"""Every config trains."""

import dataclasses

import jax
import numpy as np
import pytest

from nn_lib.data import builders
from nn_lib.objectives import next_token
from nn_lib.train.run import Run
from tests.test_codec import CONFIGS


@pytest.mark.parametrize(("module", "variant"), CONFIGS)
def test_every_config_takes_one_shrunk_step(module, variant, few_examples_to_remember):
    config = module.get_config(variant)
    if module.__name__ == "configs.mnist":  # needs a prepared set; digits have its kind of images
        config.data.name = "digits"
        config.data.prepare = upscale_rows if variant == "rows" else upscale
    if config.objective is next_token:
        config.model = config.model.clone(cell=config.model.cell.clone(features=4))
        config.data.sequence_length = 8
    config = dataclasses.replace(config, batch_size=4, num_steps=1, eval_every=0, log_every=1)
    if module.__name__ not in ("configs.char_lm",):
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
        for builder in (builders.Adding, builders.CopyMemory):
            patch.setattr(builder, "SIZES", [(split, 20) for split, _ in builder.SIZES])
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("small")))
        yield


def upscale(images):
    """8x8 digits as the 32x32 that LeNet expects."""
    return images.repeat(4, 1).repeat(4, 2).astype(np.float32)


def upscale_rows(images):
    return upscale(images)[..., 0]
