"""Checkpoints: what is kept, and what damage does."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn_lib.checks import UserError
from nn_lib.train.checkpoint import Checkpoints, Damaged, checksums, leaves_by_path


def state(value=1.0):
    params = {"w": jnp.full((3, 4), value), "b": {"c": jnp.arange(5, dtype=jnp.bfloat16)}}
    return {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "carry": (jnp.ones((2, 3)), None),
        "rng": jax.random.key_data(jax.random.key(3)),
        "flag": jnp.array([True, False]),
        "step": jnp.int32(7),
    }


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints", keep=2)
    yield found
    found.close()


def save(checkpoints, *steps, **note):
    for step in steps:
        checkpoints.save(step, state(float(step)), {"best": None, **note})
    checkpoints.wait()


def test_a_state_comes_back_bit_by_bit_with_its_types_and_its_note(checkpoints):
    save(checkpoints, 4, extra="é")
    found, note = checkpoints.restore(4, state(0.0))
    assert jax.tree.structure(found) == jax.tree.structure(state())
    jax.tree.map(np.testing.assert_array_equal, found, state(4.0))
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [
        leaf.dtype for leaf in jax.tree.leaves(state())
    ]
    assert note["extra"] == "é"


def test_the_last_ones_and_the_best_stay(checkpoints):
    for step in range(1, 7):
        if step == 2:
            checkpoints.best_step = 2
        save(checkpoints, step)
    assert checkpoints.steps() == [2, 5, 6]


def data_files(checkpoints, step):
    folder = checkpoints.folder / str(step) / "state"
    files = [f for f in folder.rglob("*") if f.is_file() and "/d/" in str(f)]
    return sorted(files, key=lambda file: -file.stat().st_size)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lambda file: file.unlink()])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_restored(checkpoints, damage, caplog):
    save(checkpoints, 1, 2)
    for file in data_files(checkpoints, 2):
        damage(file)
    with caplog.at_level(logging.WARNING, "nn_lib"):
        step, found, _ = checkpoints.restore_latest(state())
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, found, state(1.0))
    assert "checkpoint 2 " in caplog.text and "falling back to the one before" in caplog.text
    assert (checkpoints.folder.parent / "damaged_checkpoints" / "2").is_dir()
    save(checkpoints, 2)  # the step can be saved again
    assert checkpoints.steps() == [1, 2]


def test_a_flipped_bit_in_the_values_is_caught_by_the_checksums(checkpoints, monkeypatch):
    save(checkpoints, 1)
    leaves = leaves_by_path(state(1.0))
    flipped = np.array(leaves["params.w"]).view(np.uint32)
    flipped[1, 2] ^= 1 << 9
    leaves["params.w"] = jnp.asarray(flipped.view(np.float32))
    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", lambda *a, **k: leaves)
    with pytest.raises(Damaged, match=r"does not match its checksums at params\.w"):
        checkpoints.restore(1, state())


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lambda file: file.unlink()])
def test_what_training_continues_from_can_be_read_whichever_file_is_damaged(checkpoints, damage):
    save(checkpoints, 1)
    folder = checkpoints.folder / "1"
    whole = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    harmless = set()
    for file, content in whole.items():
        damage(file)
        try:
            found, note = checkpoints.restore(1, state())
        except Damaged:
            pass
        else:
            harmless.add(file.name)
            leaves, same = checkpoints.read(1)
            jax.tree.map(np.testing.assert_array_equal, found, state(1.0))
            jax.tree.map(np.testing.assert_array_equal, leaves, leaves_by_path(state(1.0)))
            assert same == note
        file.write_bytes(content)
    assert "_sharding" in harmless and "metadata" not in harmless


def test_a_damaged_checkpoint_that_cannot_be_moved_is_left_where_it_is(checkpoints):
    save(checkpoints, 1, 2)
    for file in data_files(checkpoints, 2):
        truncate(file)
    (checkpoints.folder.parent / "damaged_checkpoints").touch()
    with pytest.raises(UserError, match=r"cannot move the damaged checkpoint 2 .*File exists"):
        checkpoints.restore_latest(state())
    assert (checkpoints.folder / "2").is_dir()


def test_a_changed_note_is_noticed(checkpoints):
    save(checkpoints, 1, extra="abc")
    (file,) = (checkpoints.folder / "1" / "note").glob("metadata")
    file.write_text(file.read_text().replace("abc", "abd"))
    with pytest.raises(Damaged, match="note that does not match its checksum"):
        checkpoints.restore(1, state())


def test_when_no_checkpoint_is_intact_nothing_starts_over_silently(checkpoints):
    save(checkpoints, 1, 2)
    for step in (1, 2):
        for file in data_files(checkpoints, step):
            truncate(file)
    for _ in range(2):  # nor at the second attempt
        with pytest.raises(UserError, match=r"none of the checkpoints .* is intact \(steps 1, 2\)"):
            checkpoints.restore_latest(state())
    assert checkpoints.steps() == [1, 2]


def test_a_state_of_other_code_is_no_damage(checkpoints):
    save(checkpoints, 1)
    other = {**state(), "extra": jnp.ones(3)}
    with pytest.raises(UserError, match="was saved by other code: it differs in extra"):
        checkpoints.restore_latest(other)
    assert checkpoints.steps() == [1]


def test_an_empty_folder_has_nothing_to_restore(checkpoints):
    assert checkpoints.restore_latest(state()) is None


DTYPES = ["float32", "bfloat16", "int32", "uint8", "float16"]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(DTYPES), st.integers(0, 11), st.integers(0, 31), st.integers(0, 99))
def test_any_single_flipped_bit_changes_the_checksum(dtype, place, bit, seed):
    values = np.random.default_rng(seed).integers(0, 256, 12 * jnp.dtype(dtype).itemsize)
    raw = values.astype(np.uint8)
    width = jnp.dtype(dtype).itemsize
    flipped = raw.copy()
    flipped[place * width + (bit // 8) % width] ^= 1 << (bit % 8)
    before, after = (jnp.asarray(b.view(jnp.dtype(dtype))) for b in (raw, flipped))
    assert checksums({"x": before}) != checksums({"x": after})


def test_swapped_values_change_the_checksum():
    assert checksums({"x": jnp.array([1.0, 2.0])}) != checksums({"x": jnp.array([2.0, 1.0])})


def test_the_checksum_of_a_sharded_array_is_that_of_the_whole():
    mesh = jax.make_mesh((4,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    values = jax.random.normal(jax.random.key(0), (8, 3))
    assert checksums({"x": jax.device_put(values, sharding)}) == checksums({"x": values})
