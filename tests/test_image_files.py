"""The files of a set of images: many of them, damaged ones, and a disk that fails for a while."""

import contextlib
import errno
import os
import resource
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nn_lib.checks import UserError
from nn_lib.data import examples, images, load
from tests.image_sets import config, contents
from tests.imagenet_layout import prepare


@pytest.fixture
def few_open_files():
    """The usual limit stands for one of 24 more files than are open already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 24, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """A set whose training split is cut into 48 files."""
    sizes = {"train": 48, "validation": 48}
    return prepare("imagenette", tmp_path_factory.mktemp("cut"), sizes=sizes, shards=48)


def test_a_set_in_more_files_than_are_usually_allowed_is_read(many_files, few_open_files):
    batch = load(config(many_files)).split("train").gather(np.arange(48))
    assert batch["mask"].all()


def test_where_no_more_files_may_be_opened_the_error_names_the_limit(
    many_files, few_open_files, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", lambda *_: None)  # stands for a low hard limit
        train = load(config(many_files)).split("train")
    with pytest.raises(UserError, match="ulimit -n") as raised:
        train.gather(np.arange(48))
    assert "\n" not in str(raised.value) and "Too many open files" in str(raised.value)


def test_the_fingerprint_leaves_no_files_open(many_files):
    before = len(os.listdir("/proc/self/fd"))
    for crop in (None, images.random_resized_crop):
        data = load(config(many_files, crop=crop))
        data.fingerprint()
        assert len(os.listdir("/proc/self/fd")) < before + 10


def test_a_split_that_is_kept_is_filled_piece_by_piece(many_files, monkeypatch):
    alive, most = [], []

    def ahead(read, start, stop, workers):
        for number in range(start, stop):
            item = [read(number)]
            alive.append(weakref.ref(item[0][0]["inputs"]))
            most.append(sum(piece() is not None for piece in alive))
            yield item.pop()

    monkeypatch.setattr(examples, "read_ahead", ahead)
    monkeypatch.setattr(examples, "PIECE_IN_MEMORY", 10)
    wanted = load(config(many_files)).split("train").gather(np.arange(48))
    kept = load(config(many_files, in_memory_limit=10**9, workers=1)).split("train")
    np.testing.assert_array_equal(kept.inputs, wanted["inputs"])
    np.testing.assert_array_equal(kept.labels, wanted["labels"])
    assert len(most) == 5 and max(most) == 1


def test_a_damaged_record_file_is_endured_too(tmp_path):
    folder = prepare("imagenette", tmp_path)
    wanted = load(config(folder)).split("train").gather(np.arange(24))
    (file,) = Path(folder).rglob("*train.array_record*")
    content = bytearray(file.read_bytes())
    content[content.index(b"JFIF") + 200] ^= 255
    file.write_bytes(content)
    data = load(config(folder))
    found = data.split("train").gather(np.arange(24))
    good = found["mask"]
    assert 20 <= good.sum() < 24
    np.testing.assert_array_equal(found["inputs"][good], wanted["inputs"][good])


def test_a_file_that_is_gone_for_a_while_changes_nothing(tmp_path, monkeypatch):
    folder = prepare("imagenette", tmp_path)
    wanted = load(config(folder)).split("train").gather(np.arange(24))
    train = load(config(folder)).split("train")
    (file,) = Path(folder).rglob("*train.array_record*")
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            file.with_name("away").rename(file)

    monkeypatch.setattr(examples.time, "sleep", sleep)
    file.rename(file.with_name("away"))
    assert contents([train.gather(np.arange(24))]) == contents([wanted])
    assert len(pauses) == 2 and not train.bad.found


def test_a_file_that_stays_away_ends_the_run_and_counts_no_example(tmp_path, monkeypatch):
    folder = prepare("imagenette", tmp_path)
    train = load(config(folder)).split("train")
    (file,) = Path(folder).rglob("*train.array_record*")
    file.unlink()
    monkeypatch.setattr(examples, "PAUSES", (0.0, 0.0))
    with pytest.raises(UserError, match=r"24 examples of train cannot be read: .*No such file"):
        train.gather(np.arange(24))
    assert not train.bad.found


def test_what_the_disk_fails_to_read_is_read_again_by_another_reader(photographs, monkeypatch):
    """The open file stands for another, of which a read says Input/output error."""
    monkeypatch.setattr(examples, "PAUSES", (0.0,))
    train = load(config(photographs)).split("train")
    wanted = train.gather(np.arange(24))
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "imagenette-train" in os.readlink(f"/proc/self/fd/{descriptor}"):
                with open("/proc/self/mem", "rb") as unreadable:
                    os.dup2(unreadable.fileno(), int(descriptor))
    assert contents([train.gather(np.arange(24))]) == contents([wanted])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_decoder_that_the_system_fails_counts_no_example(photographs, monkeypatch, error, reason):
    monkeypatch.setattr(examples, "PAUSES", (0.0, 0.0))
    train = load(config(photographs)).split("train")
    wanted = train.gather(np.arange(4))
    real, failures = Image.open, [error, error]
    monkeypatch.setattr(Image, "open", lambda file: _fails(failures) or real(file))
    assert contents([train.gather(np.arange(4))]) == contents([wanted])
    failures += [error] * 3
    with pytest.raises(UserError, match=rf"example 0 of train cannot be read: .*{reason}"):
        train.gather(np.arange(4))
    assert not train.bad.found


def _fails(failures: list[Exception]) -> None:
    if failures:
        raise failures.pop()
