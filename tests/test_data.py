"""Data: what the builders hold, how splits and batches are cut, what mistakes say."""

import multiprocessing
import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn_lib.checks import UserError
from nn_lib.data import DataConfig, augment, images, load
from nn_lib.data.batches import (
    CorpusBatches,
    ExampleBatches,
    evaluation_batches,
    prefetch,
    training_batches,
)
from nn_lib.data.builders import mnist1d
from nn_lib.data.examples import Examples
from nn_lib.data.sources import Corpus, DataSet
from nn_lib.data.text import Vocabulary, read_corpus


def numbered(size: int) -> DataSet:
    """Examples that are their own number, in every split."""
    examples = Examples(np.arange(size, dtype=np.float32)[:, None], np.arange(size))
    return DataSet("numbers", {s: lambda: examples for s in ("train", "validation")}, {})


def corpus(size: int, length: int) -> DataSet:
    tokens = Corpus(np.arange(size, dtype=np.int32))
    return DataSet(
        "c", {"train": lambda: tokens, "validation": lambda: tokens}, {}, None, None, length
    )


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    data = load(DataConfig(name="digits"))
    splits = [data.split(name) for name in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [1257, 180, 360]
    found = np.concatenate([split.inputs[..., 0].reshape(-1, 64) for split in splits])
    digits = load_digits()
    assert sorted(map(tuple, found // 15)) == sorted(map(tuple, digits.data.astype(int)))
    labels = np.concatenate([split.labels for split in splits])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(digits.target))


def test_the_wave_and_the_rings_are_what_they_say():
    wave = load(DataConfig(name="wave"))
    train = wave.split("train")
    assert wave.sizes == {"num_classes": 1} and wave.class_names is None
    assert train.inputs.shape == train.labels.shape == (200, 1)
    noise = train.labels - (train.inputs / 2 + np.sin(3 * train.inputs))
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(0.1, abs=0.02)
    rings = load(DataConfig(name="rings"))
    radius = np.linalg.norm(rings.split("test").inputs, axis=1)
    labels = rings.split("test").labels
    assert rings.class_names == ("disc", "ring") and np.bincount(labels).tolist() == [100, 100]
    assert (
        radius[labels == 0].max() <= 1 and 1.3 <= radius[labels == 1].min() <= radius.max() <= 2.3
    )


def test_targets_are_derived_before_the_inputs_are_prepared():
    config = DataConfig(derive=images.stroke_area, prepare=lambda x: x * 0)
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    pixels[1, :2] = 255
    batch = config.prepare_batch({"inputs": jnp.asarray(pixels)})
    assert batch["area"].tolist() == [[0.0], [0.5]] and not batch["inputs"].any()


def test_mnist1d_is_the_packages_data_and_leaves_the_random_states_alone():
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    expected = mnist1d.generate(shuffled=False)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]
    data = load(DataConfig(name="mnist1d", train_split="train", validation_split=""))
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (4000, 1000) and list(data.readers) == ["train", "test"]
    for split, name in ((train, "x"), (test, "x_test")):
        ours = split.inputs[..., 0][np.lexsort(split.inputs[..., 0].T)]
        theirs = expected[name].astype(np.float32)
        np.testing.assert_array_equal(ours, theirs[np.lexsort(theirs.T)])


def test_the_shuffled_variant_permutes_positions_alike():
    plain = np.sort(load(DataConfig(name="mnist1d")).split("test").inputs.sum((1, 2)))
    shuffled = load(DataConfig(name="mnist1d/shuffled")).split("test").inputs
    np.testing.assert_allclose(np.sort(shuffled.sum((1, 2))), plain, atol=1e-3)


def test_the_held_out_tenth_is_not_trained_on():
    data = load(DataConfig(name="mnist1d"))
    train, validation = data.split("train"), data.split("validation")
    assert (len(train), len(validation)) == (3600, 400)
    rows = {row.tobytes() for row in train.inputs}
    assert not any(row.tobytes() in rows for row in validation.inputs)


def test_python_docs_are_this_pythons_topics():
    from pydoc_data.topics import topics

    data = load(DataConfig(name="python_docs"))
    text = data.vocabulary.decode(data.split("train").tokens)
    assert topics[sorted(topics)[0]] in text
    sizes = [len(data.split(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) >= sum(map(len, topics.values()))
    np.testing.assert_allclose(np.array(sizes) / sum(sizes), [0.9, 0.05, 0.05], atol=0.001)


def _load_in_another_process(folder):
    os.environ["TFDS_DATA_DIR"] = folder
    return len(load(DataConfig(name="digits")).split("train"))


@pytest.mark.slow
def test_of_several_processes_one_builds_and_the_others_wait(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_load_in_another_process, [str(tmp_path)] * 3) == [1257] * 3
    assert len(list((tmp_path / "digits").glob("*/dataset_info.json"))) == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5))
def test_every_epoch_holds_each_example_once(size, batch_size, seed):
    batch_size = min(batch_size, size)
    batches = training_batches(numbered(size), batch_size, seed)
    epochs = 3
    steps = -(-size * epochs // batch_size)
    seen = np.concatenate([batches.at(step)["labels"] for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_orders_differ_between_epochs_and_seeds():
    def epoch(seed, number):
        return tuple(training_batches(numbered(50), 50, seed).at(number)["labels"])

    assert len({epoch(0, 0), epoch(0, 1), epoch(1, 0), epoch(1, 1)}) == 4


@pytest.mark.parametrize("count", [1, 2, 4])
def test_global_batches_are_the_same_for_any_number_of_processes(count):
    for data in (numbered(30), corpus(200, 5)):
        whole = training_batches(data, 8, 7)
        parts = [training_batches(data, 8, 7, (index, count)) for index in range(count)]
        for step in (0, 3, 11):
            for key, expected in whole.at(step).items():
                found = np.concatenate([part.at(step)[key] for part in parts])
                np.testing.assert_array_equal(found, expected)
        ours = list(evaluation_batches(data, "validation", 8))
        theirs = [list(evaluation_batches(data, "validation", 8, (i, count))) for i in range(count)]
        for position, expected in enumerate(ours):
            found = np.concatenate([batches[position]["inputs"] for batches in theirs])
            np.testing.assert_array_equal(found, expected["inputs"])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 50))
def test_an_evaluation_counts_every_example_once_in_batches_of_one_shape(size, batch_size):
    batches = list(evaluation_batches(numbered(size), "validation", batch_size))
    seen = np.concatenate([batch["labels"][batch["mask"]] for batch in batches])
    assert sorted(seen) == list(range(size))
    assert len({batch["inputs"].shape for batch in batches}) == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 80), st.integers(1, 9), st.integers(1, 7))
def test_an_evaluation_predicts_every_next_character_once(size, streams, length):
    batches = list(evaluation_batches(corpus(size, length), "validation", streams))
    targets = np.concatenate([batch["targets"][batch["mask"]] for batch in batches])
    assert sorted(targets) == list(range(1, size))
    for batch in batches:
        inputs, targets = batch["inputs"][batch["mask"]], batch["targets"][batch["mask"]]
        np.testing.assert_array_equal(inputs + 1, targets)
    assert batches[0]["reset"][:, 0].all() and not any(b["reset"].any() for b in batches[1:])


def test_windows_of_a_stream_follow_each_other_and_start_over_with_a_reset():
    batches = CorpusBatches(Corpus(np.arange(44, dtype=np.int32)), 2, 5)
    steps = [batches.at(step) for step in range(9)]
    assert batches.windows == 4
    row = np.concatenate([step["inputs"][1] for step in steps[:4]])
    np.testing.assert_array_equal(row, np.arange(22, 42))
    assert [bool(step["reset"][:, 0].all()) for step in steps] == [i % 4 == 0 for i in range(9)]
    np.testing.assert_array_equal(steps[4]["inputs"], steps[0]["inputs"])


def test_a_streamed_split_gives_the_batches_of_one_in_memory():
    in_memory = load(DataConfig(name="digits"))
    streamed = load(DataConfig(name="digits", in_memory_limit=0))
    ours = prefetch(training_batches(in_memory, 6, 0), 3, 6)
    theirs = prefetch(training_batches(streamed, 6, 0), 3, 6)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])
        np.testing.assert_array_equal(a["labels"], b["labels"])


def test_batch_size_zero_is_the_whole_split():
    assert training_batches(numbered(30), 0, 0).batch_size == 30


@settings(deadline=None)
@given(st.text(min_size=1))
def test_a_vocabulary_round_trips_any_text(text):
    vocabulary = Vocabulary.of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_strange_characters_are_named():
    with pytest.raises(UserError, match="that the model's vocabulary lacks: 'xé'"):
        Vocabulary.of("abc").encode("axé")


def test_a_folder_is_its_text_files_by_name(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one\r\nmore")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "image.bin").write_bytes(b"\0\1\2")
    assert read_corpus(str(tmp_path), "utf-8") == "one\nmore\ntwo"


def test_encodings_are_honoured(tmp_path):
    (tmp_path / "latin").write_bytes("é".encode("latin-1") * 3)
    assert read_corpus(str(tmp_path / "latin"), "latin-1") == "ééé"
    with pytest.raises(UserError, match=r"is not utf-8 \(byte 0\); name its encoding"):
        read_corpus(str(tmp_path / "latin"), "utf-8")
    with pytest.raises(UserError, match=r"data.encoding 'latin-x' is unknown"):
        read_corpus(str(tmp_path / "latin"), "latin-x")


def test_a_text_is_cut_where_it_is_told(tmp_path):
    (tmp_path / "t").write_text("0123456789" * 10)
    config = DataConfig(path=str(tmp_path / "t"), train_split="0:50", test_split="")
    data = load(config)
    assert list(data.readers) == ["train", "validation"]
    assert (len(data.split("train")), len(data.split("validation"))) == (50, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "mnits1d"}, r"no data set that TFDS or nn_lib knows; did you mean mnist1d"),
        ({"name": "mnist1d/shufled"}, r"has no config 'shufled'; did you mean shuffled"),
        ({"name": "cifar10"}, r"'cifar10' is not prepared in .*tfds build cifar10"),
        ({"train_split": "trian"}, r"data.train_split 'trian' is no split .*; it has train, test"),
        ({"test_split": "test[:0%]"}, r"no split .*that are not empty"),
        ({"name": "mnist1d", "data_dir": "/proc/nowhere"}, r"cannot write the data set 'mnist1d'"),
        ({"validation_split": "train[80%:]"}, r"is a part of the training data; name data.train_s"),
        ({"name": "coco_captions"}, r"'coco_captions' is not prepared in"),
        ({"path": __file__, "validation_split": "80:95"}, r"the splits of the text overlap"),
        ({"path": __file__, "encoding": "undefined"}, r"encoding 'undefined'|cannot be decoded"),
        ({"path": "/nowhere/at/all"}, r"no file or folder '/nowhere/at/all'"),
        ({"name": "python_docs", "path": __file__, "train_split": "9:1"}, r"expects per cents"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        load(DataConfig(**fields))


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        (numbered(30), 31, "batch_size 31 is larger than the 30 training examples of 'numbers'"),
        (corpus(30, 10), 3, "30 characters is shorter than one batch of 3 sequences of 10"),
    ],
)
def test_batches_that_the_data_cannot_fill_are_named(data, batch_size, message):
    with pytest.raises(UserError, match=message):
        training_batches(data, batch_size, 0)


def test_processes_that_cannot_share_a_batch_are_named():
    with pytest.raises(UserError, match="batch_size 9 does not divide among 2 processes"):
        ExampleBatches(numbered(30).split("train"), 9, 0, (0, 2))


KEY = jax.random.key(0)
BATCH = {"inputs": jax.random.normal(KEY, (16, 8, 8, 2)), "labels": jnp.arange(16) % 4}


def test_a_flip_mirrors_some_images_whole():
    out = augment.flip(KEY, BATCH)["inputs"]
    mirrored = [bool((a == b[:, ::-1]).all()) for a, b in zip(out, BATCH["inputs"])]
    same = [bool((a == b).all()) for a, b in zip(out, BATCH["inputs"])]
    assert all(m != s for m, s in zip(mirrored, same)) and any(mirrored) and any(same)


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_pad_and_crop_shifts_every_image_by_at_most_the_padding(mode):
    out = augment.pad_and_crop(KEY, BATCH, padding=2, mode=mode)["inputs"]
    widths = ((2, 2), (2, 2), (0, 0))
    shifts = set()
    for after, before in zip(np.array(out), np.array(BATCH["inputs"])):
        padded = np.pad(before, widths, mode)
        found = [
            (r, c)
            for r in range(5)
            for c in range(5)
            if (padded[r : r + 8, c : c + 8] == after).all()
        ]
        assert len(found) == 1
        shifts |= set(found)
    assert len(shifts) > 5


def test_cutout_zeros_one_square_and_nothing_else():
    ones = {**BATCH, "inputs": jnp.ones((64, 8, 8, 2))}
    out = np.array(augment.cutout(KEY, ones, size=4)["inputs"])
    for image in out:
        rows, columns = np.nonzero(image[..., 0] == 0)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (image == 0).sum() == 2 * height * width and max(height, width) <= 4
    assert (out == 0).any(axis=(1, 2, 3)).all()


def test_mixup_blends_inputs_and_labels_alike():
    classes = {"inputs": jax.nn.one_hot(BATCH["labels"], 4), "labels": BATCH["labels"]}
    out = augment.mixup(KEY, classes, num_classes=4, alpha=1.0)
    np.testing.assert_allclose(out["labels"], out["inputs"], rtol=1e-6)
    np.testing.assert_allclose(out["labels"].sum(-1), 1, rtol=1e-6)
    assert ((out["labels"] > 0) & (out["labels"] < 1)).any()


def test_composed_steps_draw_different_keys():
    twice = augment.compose(KEY, BATCH, steps=(augment.flip, augment.flip))["inputs"]
    once = augment.flip(KEY, BATCH)["inputs"]
    assert (twice != BATCH["inputs"]).any() and (twice != once).any()


def test_standardize_pads_black_and_centres():
    bytes_ = jnp.full((1, 2, 2, 1), 255, jnp.uint8)
    out = images.standardize(bytes_, mean=0.5, std=0.25, padding=1)
    assert out.shape == (1, 4, 4, 1)
    assert float(out[0, 1, 1, 0]) == 2.0 and float(out[0, 0, 0, 0]) == -2.0


@pytest.mark.parametrize(("batch_size", "updates"), [(1, 12), (4, 3), (0, 1)])
def test_online_minibatch_and_batch_descent_take_their_updates_an_epoch(batch_size, updates):
    batches = training_batches(numbered(12), batch_size, seed=0)
    seen = np.concatenate([batches.at(step)["labels"] for step in range(updates)])
    assert sorted(seen) == list(range(12))
