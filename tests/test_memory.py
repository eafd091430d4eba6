"""A step's memory is told before it is taken, and one that does not fit is no trace."""

import dataclasses
import logging
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nn_lib.checks import UserError
from nn_lib.models import MLP
from nn_lib.train import fit, memory
from nn_lib.train.run import Run
from nn_lib.train.sharding import Layout, MeshConfig
from tests.small_runs import small

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_account_holds_what_can_be_counted_by_hand():
    run = Run.prepare(small(model=MLP(hidden=(200,))))
    found = memory.analyse(run.train_step, run.initial_state, run.batches.at(0))
    weights = 4 * (64 * 200 + 200 + 200 * 10 + 10)
    assert found.parameters == weights
    assert 2 * weights <= found.optimizer <= 2 * weights + 64  # Adam's two moments and counters
    batch = 32 * 64  # bytes, as the pixels are read
    assert found.total >= 3 * weights + batch + found.activations
    assert found.activations > 32 * 200 * 4  # what the hidden layer keeps
    assert f"parameters {weights / 1024:.1f} KiB" in str(found)


def test_parameters_are_those_on_one_device():
    mesh = jax.make_mesh((4,), ("fsdp",))
    cut = jax.device_put(jnp.ones((8, 5)), NamedSharding(mesh, PartitionSpec("fsdp")))
    whole = jax.device_put(jnp.ones((8, 5)), NamedSharding(mesh, PartitionSpec()))
    assert memory._on_one_device({"a": cut, "b": whole}) == 2 * 5 * 4 + 8 * 5 * 4


def test_a_run_says_it_once_and_compiles_the_step_once(tmp_path, capsys, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        fit(small(model=MLP(hidden=(9,)), num_steps=5), tmp_path)
    assert capsys.readouterr().err.count("memory of a device: parameters ") == 1
    compiled = [r for r in caplog.messages if "Finished XLA compilation of jit(step)" in r]
    assert len(compiled) == 2  # the training step and the evaluation step


def test_a_step_that_cannot_fit_is_a_mistake_that_names_what_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda devices: 10_000)
    with pytest.raises(UserError) as mistake:
        fit(small(), tmp_path, quiet=True)
    said = str(mistake.value)
    assert "a step does not fit: memory of a device: parameters " in said and "of 9.8 KiB" in said
    for setting in ("batch_size", "accumulation", "remat=full", "dtype=bfloat16", "mesh.fsdp"):
        assert setting in said
    monkeypatch.undo()
    fit(small(batch_size=16, num_steps=2), tmp_path, quiet=True)  # the same work directory


def test_a_device_that_is_nearly_full_is_said(tmp_path, monkeypatch, capsys):
    run = Run.prepare(small())
    total = memory.analyse(run.train_step, run.initial_state, run.batches.at(0)).total
    monkeypatch.setattr(memory, "available", lambda devices: int(total * 1.05))
    fit(small(num_steps=2), tmp_path)
    assert "the device is nearly full. What helps: a smaller" in capsys.readouterr().err


def test_running_out_of_memory_is_one_line_too(tmp_path, monkeypatch):
    def check(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n1")

    monkeypatch.setattr(memory, "check", check)
    with pytest.raises(UserError, match=r"out of memory \(RESOURCE_EXHAUSTED: .* What helps: "):
        fit(small(), tmp_path, quiet=True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.told_as_mistake():
        raise jax.errors.JaxRuntimeError("INTERNAL: x")


def test_a_state_that_cannot_fit_is_a_mistake_before_it_is_made(tmp_path):
    sixteen_terabytes = small(model=MLP(hidden=(1_000_000, 1_000_000)))
    with pytest.raises(UserError) as mistake:
        fit(sixteen_terabytes, tmp_path / "run", quiet=True)
    said = str(mistake.value)
    assert re.search(r"do not fit .* parameters 3.6 TiB, optimizer 7.3 TiB; in all 10.9 TiB", said)
    for setting in ("mesh.fsdp", "optimizer.name", "model"):
        assert f"--config.{setting}" in said
    assert "\n" not in said and not (tmp_path / "run").exists()


def test_a_state_counts_with_its_part_on_one_device(monkeypatch):
    weights = 4 * (64 * 512 + 512 * 512 + 512 * 10)
    monkeypatch.setattr(memory, "available", lambda devices: weights)  # of three times as much
    wide = small(model=MLP(hidden=(512, 512)))
    with pytest.raises(UserError, match="do not fit"):
        Run.prepare(wide)
    Run.prepare(dataclasses.replace(wide, mesh=MeshConfig(1, 4)))


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])  # it is either
def test_a_state_for_which_no_memory_is_left_is_one_line(tmp_path, monkeypatch, kind):
    def make_state(*_):
        raise kind("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n1")

    monkeypatch.setattr(Layout, "make_state", make_state)
    with pytest.raises(UserError, match=r"^out of memory \(RESOURCE.* What helps: parameters cut"):
        fit(small(), tmp_path, quiet=True)
