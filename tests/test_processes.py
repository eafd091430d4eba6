"""Several processes compute what one does, agree on when to stop, and end when one is lost."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import launch, peers
from nn_lib.data import DataConfig, load
from nn_lib.data.batches import epoch_order
from nn_lib.train import memory
from tests.imagenet_layout import jpeg, prepare
from tests.mesh_run import experiment, train
from tests.processes import QUICK_COMPILATION, ROOT, environment, run, start
from tests.small_runs import final_leaves
from tests.test_mesh import assert_close
from tests.test_resume import flip_a_bit, latest, wait_for

pytestmark = pytest.mark.slow


def together(count, devices, *command, timeout=300):
    """The finished launcher of `count` processes of a Python module."""
    options = ("-n", count, f"--devices-per-process={devices}")
    return run("launch", *options, "--", sys.executable, "-m", *command, timeout=timeout)


@pytest.mark.parametrize("system", ["resnet", "lstm"])
def test_two_processes_of_two_devices_agree_with_one_device_over_fifty_steps(tmp_path, system, x64):
    meshes = ["--fsdp=1", "--fsdp=2"] + ["--model=4"] * (system == "lstm")
    outs = {mesh: tmp_path / f"{mesh}.npz" for mesh in meshes}
    for mesh, out in outs.items():
        options = (f"--system={system}", f"--out={out}", "--steps=50", mesh)
        done = together(2, 2, "tests.mesh_run", *options)
        assert done.returncode == 0, done.stdout
    one = train(experiment(system, tmp_path), 50, jnp.float64)
    for out in outs.values():
        assert_close(dict(np.load(out)), one, 1e-10)


@pytest.mark.parametrize("system", ["resnet", "lstm"])
def test_ten_steps_in_float32_agree_in_two_processes(tmp_path, system):
    options = (f"--system={system}", f"--out={tmp_path / 'two.npz'}", "--steps=10", "--fsdp=2")
    done = together(2, 2, "tests.mesh_run", *options, "--dtype=float32")
    assert done.returncode == 0, done.stdout
    one = train(experiment(system, tmp_path), 10, jnp.float32)
    assert_close(dict(np.load(tmp_path / "two.npz")), one, 1e-4)


SYSTEMS = {
    "convnet": ("configs/digits.py:cnn", "--config.batch_size=48"),
    "char_lm": (
        "configs/char_lm.py:lstm",
        "--config.model.cell.features=24",
        "--config.data.sequence_length=12",
        "--config.batch_size=48",
    ),
}


def arguments(system, workdir, steps=120):
    config, *fields = SYSTEMS[system]
    return [
        "experiments.train",
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.num_steps={steps}",
        "--config.optimizer.schedule=constant",
        "--config.checkpoint_every=20",
        "--config.eval_every=60",
        "--config.log_every=10",
        *fields,
    ]


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def batches(workdir):
    """The checksums of the global batches, a line for each step that was taken."""
    return (workdir / "batches.jsonl").read_text().splitlines()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_saved_by_two_processes_continues_in_one_and_in_four(tmp_path, system):
    def go_on(name, processes, devices, steps):
        _, *rest = arguments(system, tmp_path / name, steps)
        done = together(processes, devices, "tests.recorded_run", *rest)
        assert done.returncode == 0, done.stdout

    go_on("whole", 2, 2, 40)
    go_on("four", 2, 1, 20)
    shutil.copytree(tmp_path / "four", tmp_path / "one")
    go_on("four", 4, 1, 40)
    go_on("one", 1, 3, 40)
    theirs = final_leaves(tmp_path / "whole", 40)
    expected = batches(tmp_path / "whole")
    assert [json.loads(line)["step"] for line in expected] == list(range(1, 41))
    assert len({json.loads(line)["batch"] for line in expected}) > 35
    for name in ("four", "one"):
        assert batches(tmp_path / name) == expected
        ours = final_leaves(tmp_path / name, 40)
        for path, leaf in theirs.items():
            if path.startswith(("params", "carry", "model_state")):
                np.testing.assert_allclose(ours[path], leaf, rtol=1e-2, atol=2e-3, err_msg=path)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_a_run_of_four_devices_continues_on_eight(tmp_path):
    for devices, steps in ((4, 20), (8, 40)):
        done = together(1, devices, *arguments("convnet", tmp_path / "moved", steps))
        assert done.returncode == 0, done.stdout
    assert "resumes at step 20" in done.stdout and "8 x cpu (data 8)" in done.stdout
    whole = together(1, 1, *arguments("convnet", tmp_path / "whole", 40))
    assert whole.returncode == 0, whole.stdout
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


class Pair:
    """Two processes of a run, started without the launcher, so that one can be chosen to end."""

    def __init__(self, *command, devices=2, only_second=()):
        """`only_second` is what the second one's command has beside."""
        address = f"127.0.0.1:{launch.free_port()}"
        self.processes = []
        for index in range(2):
            own = launch.environment(address, 2, index, 0)
            own = {name: value for name, value in own.items() if name.startswith("JAX_")}
            flags = f"{QUICK_COMPILATION} --xla_force_host_platform_device_count={devices}"
            process = subprocess.Popen(
                [sys.executable, "-m", *command, *(only_second if index else ())],
                cwd=ROOT,
                env=environment(**own, XLA_FLAGS=flags),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.processes.append(process)

    def end(self, timeout):
        """The outputs of both, which end within the time."""
        try:
            return [process.communicate(timeout=timeout)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()


@pytest.mark.parametrize("index", [0, 1])
def test_sigterm_to_one_process_saves_the_same_step_on_both(tmp_path, index):
    pair = Pair(*arguments("convnet", tmp_path, 10_000))
    wait_for(lambda: latest(tmp_path) >= 20, pair.processes[0])
    pair.processes[index].send_signal(signal.SIGTERM)
    outputs = pair.end(60)
    steps = {re.search(r"stopped by SIGTERM at step (\d+), saved", out).group(1) for out in outputs}
    assert len(steps) == 1, outputs
    assert {process.returncode for process in pair.processes} == {128 + signal.SIGTERM}
    assert latest(tmp_path) == int(steps.pop())


def test_a_killed_process_ends_the_job_and_the_restart_continues_exactly(tmp_path):
    whole = together(2, 2, *arguments("char_lm", tmp_path / "whole"))
    assert whole.returncode == 0, whole.stdout
    command = (sys.executable, "-m", *arguments("char_lm", tmp_path / "cut"))
    launcher = start("launch", "-n", 2, "--devices-per-process=2", "--", *command)
    wait_for(lambda: latest(tmp_path / "cut") >= 40, launcher)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    began = time.monotonic()
    subprocess.run(["kill", "-KILL", children[-1]], check=True)
    out, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 128 + signal.SIGKILL, out
    assert time.monotonic() - began < 10
    rest = together(2, 2, *arguments("char_lm", tmp_path / "cut"))
    assert rest.returncode == 0, rest.stdout
    ours, theirs = (final_leaves(tmp_path / name, 120) for name in ("cut", "whole"))
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("index", [0, 1])
def test_without_a_launcher_the_survivor_ends_by_itself(tmp_path, index):
    pair = Pair(*arguments("convnet", tmp_path, 10_000))
    wait_for(lambda: latest(tmp_path) >= 20, pair.processes[0])
    pair.processes[index].kill()
    began = time.monotonic()
    output = pair.end(90)[1 - index]
    assert time.monotonic() - began < 60
    status = pair.processes[1 - index].returncode
    if status == -signal.SIGABRT:  # JAX noticed first, and ended the process
        assert "another task died" in output
    else:
        assert status == peers.STATUS == 75
        assert output.splitlines()[-1] == f"experiments.train: {peers.LINE}"
        assert "Traceback" not in output


def test_two_processes_fall_back_from_a_damaged_checkpoint_together(tmp_path):
    first = together(2, 2, *arguments("convnet", tmp_path, 40), "--config.mesh.fsdp=4")
    assert first.returncode == 0, first.stdout
    state = tmp_path / "checkpoints" / "40" / "state"
    files = sorted((f for f in state.rglob("*/d/*")), key=lambda file: file.stat().st_size)
    flip_a_bit(files[-1])
    files[-2].write_bytes(files[-2].read_bytes()[:-7])
    rest = together(2, 2, *arguments("convnet", tmp_path, 60), "--config.mesh.fsdp=4")
    assert rest.returncode == 0, rest.stdout
    assert rest.stdout.count("falling back to the one before it") == 1  # the first process says it
    assert "resumes at step 20" in rest.stdout
    assert (tmp_path / "damaged_checkpoints" / "40").is_dir()


def test_processes_on_one_machine_share_its_memory():
    code = (
        "from absl import flags; flags.FLAGS(['']); "
        "from experiments import distributed; distributed.join(); "
        "from nn_lib.train import memory; import jax; print('has', memory.available(jax.devices()))"
    )
    options = ("-n", 2, "--devices-per-process=2")
    done = run("launch", *options, "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stdout
    own = memory.available(jax.devices()) * jax.device_count()
    assert re.findall(r"\[\d\] has (\d+)", done.stdout) == [str(own // 4)] * 2


def test_two_processes_with_workers_read_the_photographs_of_one_and_each_names_its_bad_ones(
    tmp_path,
):
    broken = [("train", 3), ("train", 8), ("train", 20), ("validation", 2)]
    prepare("imagenette", tmp_path / "photographs", broken=broken)
    one, two = tmp_path / "run_0", tmp_path / "run_1"
    for workers in (0, 1):
        done = together(1 + workers, 1, "tests.images_run", tmp_path, workers)
        assert done.returncode == 0, done.stdout
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    files = [two / f"bad_examples{end}.jsonl" for end in ("", "_1")]
    for number, file in enumerate(files):
        found = map(json.loads, file.read_text().splitlines())
        written = {(bad["index"], bad["split"]) for bad in found}
        pattern = rf"\[{number}\] .*: example (\d+) of (\w+) cannot be decoded"
        named = {(int(index), split) for index, split in re.findall(pattern, done.stdout)}
        assert written and named == written, done.stdout
    summaries = [json.loads((two / f"returned_{n}.json").read_text()) for n in (0, 1)]
    assert summaries[0]["bad_examples"] == len(broken) and summaries[0] == summaries[1]


def assert_one_mistake(pair, *messages):
    """Both end with status 2 and one line, which has the messages."""
    for output, process in zip(pair.end(60), pair.processes):
        assert process.returncode == 2, output
        mistakes = [line for line in output.splitlines() if "Gloo" not in line]
        assert len(mistakes) == 1, output
        assert all(message in mistakes[0] for message in messages), output


def test_a_picture_of_the_first_batch_that_only_the_second_process_reads_ends_both(tmp_path):
    fields = {"name": "imagenette", "in_memory_limit": 0, "workers": 0, "max_bad_examples": 0}
    whole = prepare("imagenette", tmp_path / "whole")
    data = load(DataConfig(data_dir=whole, image_size=8, **fields))
    last = int(epoch_order(24, 0, 0)[7])  # of the eight, in TFDS's order
    (record,) = data.split("train").source.__getitems__([last])
    number = next(n for n in range(24) if jpeg(n) == record["image"])
    folder = prepare("imagenette", tmp_path / "broken", broken=[("train", number)])
    command = ("experiments.train", "--config=configs/imagenette.py", f"--workdir={tmp_path / 'w'}")
    fields |= {"data_dir": folder}
    data = (f"--config.data.{name}={value}" for name, value in fields.items())
    pair = Pair(*command, *data, "--config.batch_size=8", devices=1)
    assert_one_mistake(pair, "process 1: too many examples of", f"example {last} of train")


def test_a_mistake_of_the_first_process_ends_both_in_one_line(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert_one_mistake(Pair(*arguments("convnet", tmp_path / "other")), "holds other files")


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.optimizer.learning_rate=0.5", "the config of process 1 differs from that of"),
        ("--config.data.path=TEXT", "the training data of process 1 differs from that of"),
        ("--config.data.path=NONE", "process 1: "),
    ],
)
def test_processes_that_do_not_run_the_same_are_told_before_anything_is_computed(
    tmp_path, flag, message
):
    """Each would have computed its own part of a state that none of them has."""
    for name, word in (("mine", "ab"), ("TEXT", "ba")):
        (tmp_path / name).write_text(f"{word} " * 900)
    flag = flag.replace("TEXT", str(tmp_path / "TEXT")).replace("NONE", str(tmp_path / "none"))
    command = (*arguments("char_lm", tmp_path / "run"), f"--config.data.path={tmp_path / 'mine'}")
    assert_one_mistake(Pair(*command, only_second=[flag]), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_work_directory_that_is_not_shared_is_told(tmp_path, exists):
    if exists:
        (tmp_path / "own").mkdir()
    pair = Pair(
        *arguments("convnet", tmp_path / "run"), only_second=[f"--workdir={tmp_path / 'own'}"]
    )
    message = "process 1 does not see what process 0 writes in the work directory"
    assert_one_mistake(pair, message, "choose a --workdir on a file system that all")
    assert not list((tmp_path / "run").glob(".seen*"))


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--distributed"], "no cluster was detected"),
        (["--coordinator=127.0.0.1:1234"], "belong together"),
        (["--coordinator=1234", "--num_processes=2", "--process_id=0"], "must be host:port"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "must be below"),
        (
            ["--coordinator=127.0.0.1:9", "--num_processes=2", "--process_id=1"],
            "did not find one another at 127.0.0.1:9 within --join_timeout=3 s",
        ),
    ],
)
def test_mistakes_of_joining_are_one_line(tmp_path, flags, message):
    command = arguments("convnet", tmp_path)[1:]
    done = run("train", *command, "--join_timeout=3", *flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_config_that_computes_before_the_processes_have_joined_is_told(tmp_path):
    config = tmp_path / "early.py"
    config.write_text("import jax.numpy as jnp\nfrom configs.digits import *\n\njnp.ones(3) + 1\n")
    command = ("experiments.train", f"--config={config}", f"--workdir={tmp_path / 'run'}")
    done = together(2, 1, *command)
    assert done.returncode == 2, done.stdout
    said = [line for line in done.stdout.splitlines() if "experiments.train: " in line]
    assert said and "Traceback" not in done.stdout
    assert all("computes with JAX as it is read" in line for line in said)


def test_a_taken_port_is_named(tmp_path):
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [f"--coordinator={address}", "--num_processes=2", "--process_id=0"]
        done = run("train", *arguments("convnet", tmp_path)[1:], "--join_timeout=5", *flags)
    assert done.returncode == 2, done.stderr
    assert f"cannot listen at {address}" in done.stderr and len(done.stderr.splitlines()) == 1
