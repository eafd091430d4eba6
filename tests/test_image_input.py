"""Images of any size: cut at random, some of them broken, mixed, and trained on."""

import dataclasses
import functools
import io
import json
import logging
import math

import jax
import numpy as np
import pytest
from PIL import Image

from configs import imagenet, imagenette
from nn_lib import losses, objectives
from nn_lib.checks import UserError
from nn_lib.data import augment, images, load
from nn_lib.data.batches import evaluation_batches, prefetch, training_batches
from nn_lib.models import MLP
from nn_lib.train import fit
from nn_lib.train.config import resolve
from tests.image_sets import BROKEN, config, contents, cropped
from tests.imagenet_layout import file_name, jpeg


def test_a_random_crop_is_a_rectangle_of_the_picture_resized():
    picture = Image.open(io.BytesIO(jpeg(1, (60, 60))))
    found = images.random_resized_crop(picture, 16, np.random.default_rng(5))
    rng = np.random.default_rng(5)  # torchvision's order of draws
    area, ratio = (
        3600 * rng.uniform(0.08, 1),
        math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))),
    )
    width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    top, left = rng.integers(60 - height + 1), rng.integers(60 - width + 1)
    part = picture.crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(found, part.resize((16, 16), Image.Resampling.BILINEAR))
    again = images.random_resized_crop(np.asarray(picture), 16, np.random.default_rng(5))
    np.testing.assert_array_equal(again, found)


def test_random_crops_have_the_areas_and_aspects_that_are_asked_for():
    boxes = []

    class Watched(Image.Image):
        size = (500, 375)

        def crop(self, box):
            boxes.append(box)
            return Image.new("RGB", (4, 4))

    rng = np.random.default_rng(0)
    for _ in range(2000):
        images.random_resized_crop(Watched(), 4, rng)
    left, top, right, bottom = np.transpose(boxes)
    area = (right - left) * (bottom - top) / (500 * 375)
    aspect = (right - left) / (bottom - top)
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 500 and bottom.max() <= 375
    assert 0.075 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 and 1.3 < aspect.max() < 1.35
    small = np.log(aspect[area < 0.4])  # larger ones fit better when they are wide
    assert abs(np.median(small)) < 0.02 and abs(np.mean(small > math.log(4 / 3) / 2) - 0.25) < 0.04


def test_a_picture_too_narrow_for_any_draw_gives_its_middle():
    picture = np.zeros((10, 200, 1), np.uint8)
    picture[:, 93:107] = 255
    found = images.random_resized_crop(picture, 8, np.random.default_rng(0), area=(0.9, 1.0))
    assert found.shape == (8, 8, 1) and found.min() == 255  # of 13 pixels


def test_evaluation_resizes_the_shorter_side_and_takes_the_middle():
    picture = Image.open(io.BytesIO(jpeg(0, (50, 80))))
    width, height = picture.size
    by = 20 / min(width, height)
    resized = picture.resize((round(width * by), round(height * by)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 16) // 2, (resized.height - 16) // 2
    expected = np.asarray(resized)[top : top + 16, left : left + 16]
    found = images.resize_and_crop(picture, 16, shorter_side=20)
    np.testing.assert_array_equal(found, expected)


def test_batches_of_random_crops_are_the_same_for_any_number_of_processes(photographs):
    data = load(cropped(photographs))
    whole = training_batches(data, 8, seed=3)
    for count in (2, 4):
        parts = [training_batches(data, 8, 3, (index, count)) for index in range(count)]
        for step in (0, 2, 3):  # an epoch of 24 ends after step 2
            joined = np.concatenate([part.at(step)["inputs"] for part in parts])
            np.testing.assert_array_equal(joined, whole.at(step)["inputs"])
    assert contents(prefetch(whole, 1, 5)) == contents(map(whole.at, range(1, 5)))
    seen = [whole.at(step)["inputs"] for step in range(6)]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 48  # cut anew in every epoch
    assert (training_batches(data, 8, seed=4).at(0)["inputs"] != seen[0]).any()


def test_the_next_good_example_stands_in_for_a_broken_one(photographs):
    data = load(config(photographs, name="imagenet2012"))
    train = data.split("train")
    found = train.gather(np.arange(24))
    broken = np.flatnonzero(~found["mask"])
    assert len(broken) == 3
    for index in broken:
        after = next(i % 24 for i in range(index + 1, 48) if i % 24 not in broken)
        np.testing.assert_array_equal(found["inputs"][index], found["inputs"][after])
        assert found["labels"][index] == found["labels"][after]
    epoch = [training_batches(data, 8, 0).at(step) for step in range(3)]
    assert all(batch["mask"].all() and batch["inputs"].shape == (8, 16, 16, 3) for batch in epoch)


def test_in_memory_broken_examples_are_treated_alike(photographs):
    streamed = load(config(photographs, name="imagenet2012"))
    kept = load(config(photographs, name="imagenet2012", in_memory_limit=10**9))
    assert type(kept.split("train")) is not type(streamed.split("train"))
    batches = [training_batches(data, 10, 0) for data in (streamed, kept)]
    assert contents(map(batches[0].at, range(5))) == contents(map(batches[1].at, range(5)))
    evaluated = [evaluation_batches(data, "validation", 4) for data in (streamed, kept)]
    assert contents(evaluated[0]) == contents(evaluated[1])
    assert streamed.fingerprint() == kept.fingerprint()


def test_an_evaluation_counts_every_good_example_once(photographs):
    whole = load(config(photographs)).split("validation").gather(np.arange(10))
    data = load(config(photographs, name="imagenet2012"))
    for size in (3, 4, 10):
        batches = list(evaluation_batches(data, "validation", size))
        assert len({batch["inputs"].shape for batch in batches}) == 1
        seen = np.concatenate([batch["inputs"][batch["mask"]] for batch in batches])
        good = np.delete(whole["inputs"], _place_of(data, "validation"), axis=0)
        np.testing.assert_array_equal(seen, good)  # both sets hold the same pictures


def _place_of(data, split: str) -> int:
    (place,) = (index for name, index in data.split(split).bad.found if name == split)
    return place


def test_a_broken_example_is_named_once(photographs, caplog):
    data = load(config(photographs, name="imagenet2012"))
    with caplog.at_level(logging.WARNING, "nn_lib"):
        for _ in range(2):
            list(prefetch(training_batches(data, 8, 0), 0, 3))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    for _, number in BROKEN[:3]:
        (line,) = (line for line in lines if file_name("train", number) in line)
        assert "of train) cannot be decoded and is skipped: image file is truncated" in line


def test_more_broken_examples_than_allowed_end_the_run_with_the_last_named(photographs):
    data = load(config(photographs, name="imagenet2012", max_bad_examples=2))
    with pytest.raises(UserError, match=r"data.max_bad_examples is 2\); the last is train_000\d\d"):
        list(prefetch(training_batches(data, 8, 0), 0, 3))
    none = load(config(photographs, name="imagenet2012", max_bad_examples=0))
    with pytest.raises(UserError, match="cannot be decoded") as raised:
        none.split("train").gather(np.arange(24))
    assert "\n" not in str(raised.value)


def test_mixup_is_the_papers_formula():
    batch = {"inputs": np.arange(12.0).reshape(4, 3), "labels": np.array([0, 2, 1, 2])}
    key = jax.random.key(1)
    share = float(jax.random.beta(key, 0.2, 0.2))
    found = augment.mixup(key, batch, num_classes=3, alpha=0.2)
    for row, other in enumerate([3, 0, 1, 2]):
        inputs = share * batch["inputs"][row] + (1 - share) * batch["inputs"][other]
        labels = np.zeros(3)
        labels[batch["labels"][row]] += share
        labels[batch["labels"][other]] += 1 - share
        np.testing.assert_allclose(found["inputs"][row], inputs, rtol=1e-5)
        np.testing.assert_allclose(found["labels"][row], labels, rtol=1e-5)


def test_classify_smooths_mixed_labels_in_training_only():
    model = MLP(hidden=(), num_classes=3)
    inputs = np.array([[1.0, 2.0], [0.5, -1.0]], np.float32)
    labels = np.array([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]], np.float32)
    batch = {"inputs": inputs, "labels": labels, "mask": np.ones(2, bool)}
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    logits = np.asarray(model.apply(variables, inputs), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    plain, smooth = -(labels * log_p).sum(1), -((0.9 * labels + 0.1 / 3) * log_p).sum(1)
    step = functools.partial(objectives.classify, smoothing=0.1)
    loss, measured, *_ = step(model, variables, batch, {}, None, True)
    np.testing.assert_allclose(loss, smooth.mean(), rtol=1e-5)
    np.testing.assert_allclose(measured["loss"][0], plain.sum(), rtol=1e-5)
    hard = {**batch, "labels": np.array([0, 2])}
    loss, *_ = step(model, variables, hard, {}, None, False)
    np.testing.assert_allclose(loss, -(log_p[0, 0] + log_p[1, 2]) / 2, rtol=1e-5)
    with pytest.raises(UserError, match="no other loss with it"):
        other = losses.maximum_a_posteriori
        objectives.classify(model, variables, hard, {}, None, True, loss=other, smoothing=0.1)


def test_mixup_learns_the_number_of_classes_from_the_data(photographs):
    experiment = imagenet.get_config()
    experiment.data.data_dir = photographs
    resolved = resolve(experiment, load(experiment.data))
    assert resolved.data.augment.keywords == {"num_classes": 1000}
    assert resolved.model.num_classes == 1000


def small_run(folder, photographs, steps, workers, experiment=None, **fields):
    """A few steps of a small network by a recipe, that of Imagenette; some pictures are broken."""
    experiment = experiment or imagenette.get_config()
    data = dataclasses.replace(
        experiment.data,
        name="imagenet2012",
        data_dir=photographs,
        image_size=32,
        shorter_side=36,
        workers=workers,
        **fields,
    )
    experiment = dataclasses.replace(
        experiment,
        model=experiment.model.clone(stage_sizes=(1, 1), width=4),
        optimizer=dataclasses.replace(experiment.optimizer, warmup_steps=2, decay_steps=8),
        data=data,
        batch_size=8,
        log_every=1,
        num_steps=steps,
        eval_every=3,
        checkpoint_every=3,
    )
    return fit(experiment, folder, quiet=True)


@pytest.mark.slow
def test_a_run_remembers_what_it_could_not_decode(tmp_path, photographs, undrawn, caplog):
    with caplog.at_level(logging.WARNING, "nn_lib"):
        summary = small_run(tmp_path, photographs, 3, 0)
    assert summary["bad_examples"] == 4  # three in an epoch of training, one in validation
    file = tmp_path / "bad_examples.jsonl"
    names = {json.loads(line)["file_name"] for line in file.read_text().splitlines()}
    assert names == {file_name(*place) for place in BROKEN}
    file.write_text(file.read_text() + '{"split": "tr')  # as a kill leaves it
    (tmp_path / "bad_examples_1.jsonl").write_text(
        '{"split": "train", "index": 99, "file_name": "x", "reason": "seen by another process"}\n'
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "nn_lib"):
        assert small_run(tmp_path, photographs, 4, 0)["bad_examples"] == 5
    assert len(caplog.records) <= 1  # of the first batch, read before the directory is looked at
    assert len(file.read_text().splitlines()) == 4
    with pytest.raises(UserError, match=r"data.max_bad_examples is 1\)"):
        small_run(tmp_path / "stopped", photographs, 3, 0, max_bad_examples=1)


@pytest.mark.slow
def test_imagenets_recipe_is_trained_and_continued_with_other_workers(
    tmp_path, photographs, undrawn
):
    recipe = imagenet.get_config()
    whole = small_run(tmp_path / "whole", photographs, 6, 0, recipe)
    small_run(tmp_path / "parts", photographs, 3, 2, recipe)
    assert small_run(tmp_path / "parts", photographs, 6, 1, recipe) == whole
    assert set(whole["validation"]) >= {"accuracy", "top_5_accuracy"}
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert lines[0] == lines[1]
