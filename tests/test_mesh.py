"""Four simulated devices compute what one does, and what is to be cut over them lies in parts."""

import dataclasses
import functools
import logging
import re
import subprocess
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from nn_lib import metrics
from nn_lib.checks import UserError
from nn_lib.data import DataConfig, augment
from nn_lib.models import MLP, CharLM
from nn_lib.recurrent import GRUCell
from nn_lib.train import fit, restore
from nn_lib.train.checkpoint import Checkpoints, checksums
from nn_lib.train.run import Run
from nn_lib.train.sharding import Layout, MeshConfig
from tests.conftest import cache_programs
from tests.mesh_run import experiment, train
from tests.processes import QUICK_COMPILATION, ROOT, environment
from tests.small_runs import final_leaves, lines, small, text_experiment

pytestmark = pytest.mark.usefixtures("undrawn")


def on(mesh, config):
    return dataclasses.replace(config, mesh=mesh)


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("system", ["resnet", "lstm"])
def test_ten_steps_on_four_devices_are_those_of_one(tmp_path, system):
    config = experiment(system, tmp_path)
    one = train(config, 10, jnp.float32)
    assert_close(train(on(MeshConfig(2, 2), config), 10, jnp.float32), one, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["resnet", "lstm"])
def test_ten_steps_in_float32_agree_on_every_mesh(tmp_path, system):
    config = experiment(system, tmp_path)
    one = train(config, 10, jnp.float32)
    for mesh in (MeshConfig(4), MeshConfig(1, 4), MeshConfig(2, 1, 2)):
        assert_close(train(on(mesh, config), 10, jnp.float32), one, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["resnet", "lstm"])
def test_fifty_steps_in_float64_agree_on_every_mesh(tmp_path, system, x64):
    config = experiment(system, tmp_path)
    one = train(config, 50, jnp.float64)
    others = [] if system == "resnet" else [MeshConfig(1, 4), MeshConfig(2, 1, 2)]
    for mesh in (MeshConfig(4), MeshConfig(2, 2), MeshConfig(1, 2, 2), *others):
        assert_close(train(on(mesh, config), 50, jnp.float64), one, 1e-10)


@pytest.mark.slow
def test_a_second_start_with_a_compilation_cache_computes_the_same(tmp_path):
    found = []
    for name in ("first", "second"):
        options = ["--system=lstm", f"--out={tmp_path / name}.npz", "--steps=50", "--model=2"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.mesh_run", *options],
            cwd=ROOT,
            env=environment(
                XLA_FLAGS=f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=4",
                JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            ),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(dict(np.load(tmp_path / f"{name}.npz")))
    assert_close(found[1], found[0], 0)


def test_a_program_of_several_devices_is_read_from_no_cache_that_loses_its_order():
    def asked(mesh):
        layout = Layout.of(mesh)
        events = []

        def listen(event, **_):
            events.append(event)

        jax.monitoring.register_event_listener(listen)
        try:
            layout.jit_replicated(lambda x: x + 1)(np.ones(8))
        finally:
            jax.monitoring.unregister_event_listener(listen)
        return "/jax/compilation_cache/compile_requests_use_cache" in events

    cache_programs()
    assert asked(MeshConfig(1))
    assert asked(MeshConfig(2)) == (not version("jaxlib").startswith(("0.10.", "0.11.")))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_matrices_over_the_model_axis_and_parts_of_a_batch_change_nothing(tmp_path, accumulation):
    config = small(model=MLP(hidden=(128, 64)), accumulation=accumulation)
    one = train(config, 4, jnp.float32)
    assert_close(train(on(MeshConfig(2, 1, 2), config), 4, jnp.float32), one, 1e-5)


def bytes_on_first_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("mesh", [MeshConfig(1, 4), MeshConfig(1, 2, 2), MeshConfig(1, 1, 4)])
def test_parameters_and_optimizer_state_lie_in_parts(mesh):
    config = small(model=MLP(hidden=(512, 512)), ema_decay=0.9, mesh=mesh)
    run = Run.prepare(config)
    state, _ = run.train_step(run.initial_state, run.layout.put(run.batches.at(0)))
    for tree in (state.params, state.opt_state, state.ema):
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        assert bytes_on_first_device(tree) < 0.27 * whole


def test_the_batch_and_the_carry_lie_in_parts(tmp_path):
    (tmp_path / "text").write_text("abcdefgh" * 100)
    run = Run.prepare(text_experiment(tmp_path / "text", batch_size=8, mesh=MeshConfig(2, 2)))
    batch = run.layout.put(run.batches.at(0))
    state, _ = run.train_step(run.initial_state, batch)
    for leaf in (*jax.tree.leaves(batch), *jax.tree.leaves(state.carry)):
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}


def test_the_largest_axis_that_divides_is_cut_and_what_is_small_is_not():
    layout = Layout.of(MeshConfig(1, 2, 2))
    shapes = {"kernel": (128, 512), "odd": (4097, 3), "conv": (3, 3, 64, 128), "bias": (512,)}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    specs = {name: sharding.spec for name, sharding in layout.parameters(tree).items()}
    assert specs["kernel"] == PartitionSpec("fsdp", "model")
    assert specs["odd"] == PartitionSpec(None, None)
    assert specs["conv"] == PartitionSpec(None, None, None, "fsdp")
    assert specs["bias"] == PartitionSpec()


@pytest.mark.parametrize(
    "mesh, message",
    [
        (MeshConfig(-1, 3), "mesh data -1 x fsdp 3 x model 1 does not divide the 4 devices"),
        (MeshConfig(4, 2), "mesh data 4 x fsdp 2 x model 1 does not divide the 4 devices"),
        (MeshConfig(-1, -1), "one of them may be -1"),
        (MeshConfig(0), "every size is 1 or more"),
    ],
)
def test_a_mesh_that_the_devices_do_not_make_is_refused(mesh, message):
    with pytest.raises(UserError, match=message):
        Layout.of(mesh)


def test_minus_one_is_what_is_left():
    assert dict(Layout.of(MeshConfig(-1, 2)).mesh.shape) == {"data": 2, "fsdp": 2, "model": 1}
    assert Layout.of(MeshConfig(2, -1)).shards == 4
    assert "2 of 4 x cpu (data 2)" in str(Layout.of(MeshConfig(2)))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size 30 does not divide among 4 devices"):
        Run.prepare(small(batch_size=30, mesh=MeshConfig(4)))
    with pytest.raises(UserError, match="batch_size 36 in 2 parts does not divide among 4"):
        Run.prepare(small(batch_size=36, accumulation=2, mesh=MeshConfig(2, 2)))


def test_every_example_counts_once_in_an_evaluation_on_four_devices(tmp_path):
    config = small(eval_batch_size=7)
    (tmp_path / "text").write_text("the quick brown fox. " * 40)
    text = text_experiment(tmp_path / "text", eval_batch_size=3)
    for kind in (config, text):
        found = []
        for mesh in (MeshConfig(1), MeshConfig(2, 2)):
            run = Run.prepare(on(mesh, kind))
            found.append(run.measure(run.initial_state, "validation"))
        for name, (total, count) in found[0].items():
            assert count == found[1][name][1]
            np.testing.assert_allclose(found[1][name][0], total, rtol=1e-4, err_msg=name)


def test_checksums_do_not_depend_on_where_an_array_lies():
    layout = Layout.of(MeshConfig(2, 2))
    leaves = {
        "float": jax.random.normal(jax.random.key(0), (64, 96)),
        "bfloat": jax.random.normal(jax.random.key(1), (64, 96), jnp.bfloat16),
        "bool": jax.random.bernoulli(jax.random.key(2), shape=(64, 96)),
        "scalar": jnp.float32(3),
    }
    cut = jax.device_put(leaves, layout.parameters(leaves))
    assert cut["float"].addressable_shards[0].data.shape == (64, 48)
    assert checksums(cut) == checksums(leaves)
    swapped = {**leaves, "float": leaves["float"].at[jnp.array([0, 1])].set(leaves["float"][1::-1])}
    assert checksums(swapped)["float"] != checksums(leaves)["float"]


def test_mixup_moves_one_example_between_neighbouring_devices():
    layout = Layout.of(MeshConfig(2, 2))
    batch = {"inputs": jnp.ones((16, 8, 8, 3)), "labels": jnp.arange(16) % 5}
    batch = jax.device_put(batch, layout.batch)
    mix = jax.jit(functools.partial(augment.mixup, num_classes=5), out_shardings=layout.batch)
    program = mix.lower(jax.random.key(0), batch).compile().as_text()
    moved = re.findall(r"= (f32\[[\d,]*\])\S* collective-permute\(", program)
    assert "f32[1,8,8,3]" in moved
    assert not re.search(r"f32\[16,8,8,3\]\S* (all-gather|all-reduce|all-to-all)", program)


@pytest.mark.parametrize("mesh", [MeshConfig(1), MeshConfig(2, 2)])
def test_a_copy_lies_alike_in_memory_of_its_own_and_is_compiled_once(caplog, mesh):
    layout = Layout.of(mesh)
    tree = {"kernel": jnp.arange(64.0 * 96).reshape(64, 96), "bias": jnp.ones(5)}
    tree = jax.device_put(tree, layout.parameters(tree))
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        for _ in range(3):
            copy = layout.copy(tree)
    assert sum("Finished XLA compilation" in message for message in caplog.messages) == 1
    for name, leaf in tree.items():
        assert copy[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        np.testing.assert_array_equal(copy[name], leaf)
        ours, theirs = (
            [shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards]
            for x in (copy[name], leaf)
        )
        assert not set(ours) & set(theirs)


@pytest.mark.slow
def test_a_run_saved_on_four_devices_continues_on_two_and_on_one(tmp_path):
    config = small(ema_decay=0.9, model=MLP(hidden=(128,)))
    fit(on(MeshConfig(4), config), tmp_path / "whole", quiet=True)
    for step, mesh in ((5, MeshConfig(2, 2)), (10, MeshConfig(1, 2)), (20, MeshConfig(1))):
        run = on(mesh, dataclasses.replace(config, num_steps=step))
        fit(run, tmp_path / "moved", quiet=True)
    ours, theirs = (final_leaves(tmp_path / name, 20) for name in ("moved", "whole"))
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)
    losses = [
        [line["loss"] for line in lines(tmp_path / name) if line["split"] == "train"]
        for name in ("moved", "whole")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_checkpoint_of_four_devices_is_read_on_one(tmp_path):
    config = small(model=MLP(hidden=(256,)), mesh=MeshConfig(1, 4), num_steps=10)
    summary = fit(config, tmp_path, quiet=True)
    trained = restore(tmp_path)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(trained.variables))
    found = metrics.means(trained.evaluate("test"))
    assert found["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5)


def test_a_language_model_writes_samples_on_four_devices(tmp_path):
    (tmp_path / "text").write_text("abcdefgh" * 100)
    config = text_experiment(
        tmp_path / "text",
        model=CharLM(cell=GRUCell(64)),
        sample_every=3,
        sample_length=10,
        mesh=MeshConfig(2, 2),
    )
    fit(config, tmp_path / "run", quiet=True)
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_plateau_schedule_runs_on_four_devices(tmp_path):
    optimizer = dataclasses.replace(small().optimizer, schedule="plateau", patience=1)
    data = DataConfig(name="digits", train_split="train[:320]")
    fit(small(optimizer=optimizer, data=data, mesh=MeshConfig(4)), tmp_path, quiet=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert 20 in checkpoints.steps()
    checkpoints.close()
