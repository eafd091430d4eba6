"""A step's memory is told before it is taken, and one that does not fit is no trace."""

import dataclasses
import gc
import logging
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nn_lib.checks import UserError
from nn_lib.models import MLP
from nn_lib.train import fit, memory
from nn_lib.train.checkpoint import Checkpoints
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


def test_a_second_state_is_in_memory_neither_at_a_restart_nor_at_the_end(tmp_path, monkeypatch):
    """On a device that one nearly fills, a run could begin, but not continue nor end."""
    restore, found = Checkpoints.restore, []

    def counting(checkpoints, step, target):
        gc.collect()
        found.append((step, sum(x.shape == (67, 71) for x in jax.live_arrays())))
        return restore(checkpoints, step, target)

    monkeypatch.setattr(Checkpoints, "restore", counting)
    # The lowest accuracy is the best here: that of the first step.
    experiment = small(model=MLP(hidden=(67, 71)), select_mode="min", eval_every=1)
    fit(dataclasses.replace(experiment, num_steps=4), tmp_path, quiet=True)
    fit(dataclasses.replace(experiment, num_steps=6), tmp_path, quiet=True)
    assert [step for step, _ in found] == [1, 4, 1]  # at the end, at the restart, at the end
    assert all(count == 0 for _, count in found), found


def test_only_devices_that_are_used_share_the_machine():
    one, four = ({*jax.devices()[:count]} for count in (1, 4))
    assert memory.available(one) // 4 == memory.available(four)


def test_a_container_or_a_job_bounds_the_machine(monkeypatch):
    found = [("job/task", "max\n"), ("job", "7000000\n"), (".", "9000000\n")]
    monkeypatch.setattr(memory, "limits", {"memory.max": found}.get)
    monkeypatch.setattr(memory, "own_group", lambda: "job/task")
    assert memory.available({jax.devices()[0]}) == 7_000_000


def test_what_a_group_has_is_divided_among_its_own_processes(monkeypatch):
    """Two of four processes on this machine are in this one's group."""
    monkeypatch.setattr(memory.processes, "on_this_machine", lambda group="": 2 if group else 4)
    monkeypatch.setattr(memory, "own_group", lambda: "task")
    for own, around, least in ((6, 20, 3), (12, 20, 5)):
        found = [("task", f"{own * 10**6}"), (".", f"{around * 10**6}")]
        monkeypatch.setattr(memory, "limits", {"memory.max": found}.get)
        assert memory.available({jax.devices()[0]}) == least * 10**6


def test_an_evaluation_holds_the_metrics_of_few_batches_at_a_time(tmp_path):
    """Of a thousand classes the confusion matrix of a batch has 4 MB."""
    run = Run.prepare(small(eval_batch_size=2))
    held = []

    def eval_step(variables, batch, carry):
        held.append(sum(x.shape == (10, 10) for x in jax.live_arrays()))
        return real(variables, batch, carry)

    real, run.eval_step = run.eval_step, eval_step
    found = run.measure(run.initial_state, "validation")
    assert len(held) == 40 and max(held) <= 12
    assert found["accuracy"][1] == 80 and found["confusion"][0].sum() == 80
