"""The mains as a user meets them: what they print, and one line for every mistake."""

import json
import re

import pytest

from tests.mistakes import QUICK, check, make
from tests.processes import ROOT, run_forked

CNN = "--config=configs/mnist1d.py:cnn"
MLP = "--config=configs/digits.py:mlp"
TEXT = "--config=configs/char_lm.py"
RATE = "--search=optimizer.learning_rate"
PLATEAU = "--config.optimizer.schedule=plateau"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A digit classifier and a character model, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    small = ("--config.model.cell.features=16", "--config.data.sequence_length=16")
    small += (f"--config.data.path={ROOT / 'LICENSE'}",)  # short
    digits = [MLP, f"--workdir={folder / 'digits'}", *QUICK]
    text = [TEXT, f"--workdir={folder / 'text'}", *QUICK, *small]
    first, second = run_forked([("train", arguments) for arguments in (digits, text)])
    for found in (first, second):
        assert found.returncode == 0, found.stderr
    return folder, first, second


def test_training_ends_by_saying_where_things_are_and_what_to_try(runs):
    folder, first, second = runs
    for word in ("accuracy", "test", "learning_curve.png", "tensorboard", "checkpoints"):
        assert word in first.stdout
    assert first.stdout.count("python -m experiments.") == 2
    assert f"experiments.generate --workdir={folder / 'text'}" in second.stdout
    for name in ("learning_curve", "confusion_test"):
        assert (folder / "digits" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Traceback" not in first.stderr + second.stderr
    assert "WARNING" not in first.stderr, first.stderr


def test_evaluation_agrees_with_the_summary(runs):
    folder = runs[0]
    found, table = run_forked(
        [
            ("evaluate", [f"--workdir={folder / 'digits'}", "--split=test", "--json"]),
            ("evaluate", [f"--workdir={folder / 'text'}", "--split=validation"]),
        ]
    )
    summary = json.loads((folder / "digits" / "summary.json").read_text())
    values = json.loads(found.stdout)
    assert values["accuracy"] == summary["test"]["accuracy"]
    assert values["step"] == summary["evaluated_step"]
    assert "bits per character" in table.stdout and table.returncode == 0


def test_generation_is_reproducible_and_as_long_as_asked(runs):
    text = f"--workdir={runs[0] / 'text'}"
    sample = ("generate", [text, "--prompt=The ", "--length=70", "--seed=3"])
    greedy = [("generate", [text, "--temperature=0", f"--seed={seed}"]) for seed in (1, 2)]
    found = run_forked([sample, sample, *greedy])
    first, again, *alike = [process.stdout for process in found]
    assert first == again and first.startswith("The ")
    assert len(first) == len("The ") + 70 + 1
    assert alike[0] == alike[1] != ""


# (main, arguments, what the line says); {runs} and {tmp} are folders, {work} must stay absent.
MISTAKES = [
    ("train", ["--workdir={work}"], "--config is missing"),
    ("train", [CNN], "--workdir is missing"),
    ("train", ["--config=configs/mnits.py", "--workdir={work}"], "no file 'configs/mnits.py'"),
    ("train", ["--config=configs/mnist1d.py:cn", "--workdir={work}"], "did you mean cnn?"),
    ("train", [CNN, "--workdir={work}", "--config.batch_siz=3"], "did you mean batch_size"),
    (
        "train",
        [CNN, "--workdir={work}", "--config.optimizer.learning_rat=3"],
        "--config.optimizer has no field 'learning_rat'; did you mean learning_rate?",
    ),
    ("train", [CNN, "--workdir={work}", "--config.model.drop=3"], "did you mean dropout?"),
    ("train", [CNN, "--workdir={work}", "--config.seed.x=3"], "config.seed is 0, which has no"),
    ("train", [CNN, "--workdir={work}", "--config.batch_size=many"], "invalid literal for int"),
    ("train", [CNN, "--workdir={work}", "--config.model=MLP"], "not supported for overriding"),
    ("train", [CNN, "--workdir={work}", "--config.data.augment=x"], "not supported"),
    ("train", [CNN, "--workdir={work}", "--config.batch_size=-4"], "batch_size must be a whole"),
    ("train", ["--config.seed=1", CNN, "--workdir={work}"], "comes before its overrides"),
    ("train", [CNN, "--workdir={work}", "--wrokdir=x"], "unknown flag --wrokdir; did you mean w"),
    ("train", [CNN, "--workdir={work}", "stray"], "unexpected argument 'stray'"),
    ("train", [CNN, "--workdir={work}", "--config.data.name=mnits"], "did you mean"),
    ("train", [CNN, "--workdir={work}", "--config.data.name=cifar10"], "is not prepared in"),
    ("train", [TEXT, "--workdir={work}", "--config.data.path=/no/text"], "no file or folder"),
    ("train", [TEXT, "--workdir={work}", "--config.data.path={tmp}/empty"], "file is empty"),
    ("train", [TEXT, "--workdir={work}", "--config.data.path={tmp}/bytes"], "is not utf-8"),
    ("train", [TEXT, "--workdir={work}", "--config.data.path={tmp}/short"], "is shorter than one"),
    ("train", [CNN, "--workdir={work}", "--config.batch_size=99999"], "is larger than the 3600"),
    ("train", [CNN, "--workdir={runs}/digits"], "holds another experiment"),
    ("train", [CNN, "--workdir=/proc/nowhere"], "cannot write the work directory"),
    ("train", [CNN, "--workdir={tmp}/empty"], "is a file; choose another --workdir"),
    ("train", [MLP, "--workdir={work}", "--config.optimizer.frozen=('Conv_9',)"], "'Conv_9' mat"),
    ("train", [MLP, "--workdir={work}", "--config.accumulation=7"], "7 does not divide the batch"),
    (
        "train",
        ["--config=configs/mnist1d_paper.py", "--workdir={work}", PLATEAU],
        "the plateau schedule needs a validation split",
    ),
    ("evaluate", [], "--workdir is missing"),
    ("evaluate", ["--workdir={work}"], "is no work directory"),
    ("evaluate", ["--workdir={runs}/digits", "--split=tset"], "did you mean test?"),
    ("evaluate", ["--workdir={runs}/digits", "--checkpoint=7"], "there are best, last, [2, 4]"),
    ("generate", ["--workdir={runs}/digits"], "is no text model but a MLP"),
    ("generate", ["--workdir={runs}/text", "--top_p=0"], "top_p must be above 0 and at most 1"),
    ("generate", ["--workdir={runs}/text", "--prompt=\u4f60"], "that the model's vocabulary lacks"),
    ("generate", ["--workdir={runs}/text", "--temperature=-1"], "temperature must not be negative"),
    ("generate", ["--workdir={runs}/text", "--length=-1"], "--length=-1"),
    ("generate", ["--workdir={runs}/text", "--prompt="], "--prompt is empty"),
]
OF_OTHER_MAINS = [
    ("sweep", [MLP, "--workdir={work}"], "the search space is empty; name a field"),
    ("sweep", [MLP, "--workdir={work}", RATE + "=loguniform(1, 0.1)"], "is upside down or empty"),
    ("sweep", [MLP, "--workdir={work}", RATE[:-1] + "=[1]"], "did you mean learning_rate?"),
    ("sweep", [MLP, "--workdir={work}", RATE + "=[fast]"], "holds a float (0.002), and 'fast'"),
    ("sweep", [MLP, "--workdir={work}", "--search=seed=[1, 2]"], "seed is the sweep's own here"),
    ("sweep", [MLP, "--workdir={work}", RATE + "=[0.1]", "--metric=loss"], "max or min: which is"),
    (
        "sweep",
        [MLP, "--workdir={work}", RATE + "=[0.1]", "--metric=acuracy", "--metric_mode=max"],
        "--metric 'acuracy' is unknown; did you mean accuracy",
    ),
    (
        "sweep",
        [MLP, "--workdir={work}", "--config.optimizer.learning_rate=1", RATE + "=[0.1]"],
        "optimizer.learning_rate is also fixed by an override",
    ),
    ("sweep", [MLP, "--workdir={work}", RATE + "=[0.1]", "--halving=20"], "has one rung"),
    ("sweep", [MLP, "--workdir={tmp}/empty", RATE + "=[0.1]"], "is a file; choose another"),
    (
        "sweep",
        [MLP, "--workdir={work}", RATE + "=[0.1]", "--config.batch_size=-1"],
        "batch_size mus",
    ),
    ("sweep", [MLP, "--workdir={work}", "--mode=gird"], "--mode=gird: value should be one of"),
    ("sweep", [MLP, "--workdir={runs}/digits", RATE + "=[1.0]"], "holds other files and no sweep"),
    ("results", ["--rows=digit"], "--rows: there is no 'digit'; did you mean digits"),
    ("shallow", ["--workdir={work}", "--data=mnist1d"], "the pipeline takes grey images"),
    ("shallow", ["--workdir={work}", "--data=python_docs"], "holds no arrays; the pipeline takes"),
    ("shallow", ["--workdir={runs}/digits"], "holds other files and no shallow.txt"),
    ("grid_or_random", ["--workdir={tmp}/empty"], "--workdir={tmp}/empty cannot be written"),
    ("summarize", [], "name one of --config, --model and --lecture"),
    ("summarize", ["--model=ResNet51"], "is unknown; did you mean ResNet50"),
    ("summarize", ["--model=torchvision:resnet5"], "'resnet5' is unknown; did you mean"),
    ("summarize", ["--model=AlexNet", "--size=32"], "pool2: max_pool with window 3 ran out"),
    ("kernels", ["--workdir={work}", "--image={tmp}/empty"], "cannot be read as a picture"),
]


@pytest.fixture(scope="module")
def answers(runs, tmp_path_factory):
    return make(MISTAKES, runs[0], tmp_path_factory)


@pytest.mark.parametrize("index", range(len(MISTAKES)), ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(answers, index):
    check(answers, MISTAKES, index)


def test_no_mistake_touches_a_work_directory(answers):
    assert answers.nothing_changed


@pytest.mark.slow
def test_mistakes_of_other_mains_are_one_line_too(runs, tmp_path_factory):
    answers = make(OF_OTHER_MAINS, runs[0], tmp_path_factory)
    for index in range(len(OF_OTHER_MAINS)):
        check(answers, OF_OTHER_MAINS, index)
    assert answers.nothing_changed


@pytest.mark.slow
def test_the_mains_of_the_lectures_leave_numbers_and_pictures(tmp_path):
    mains = {
        "feature_maps": ["--steps=3"],
        "grid_or_random": ["--repeats=60"],
        "shallow": ["--data=digits", "--codes=30"],
    }
    commands = [(main, [f"--workdir={tmp_path / main}", *more]) for main, more in mains.items()]
    found = dict(zip(mains, run_forked(commands)))
    for main, process in found.items():
        assert process.returncode == 0, process.stderr
        assert len(list((tmp_path / main).glob("*.png"))) >= 1
    assert "XOR by two hidden units, exactly: [0, 1, 1, 0]" in found["feature_maps"].stdout
    said = found["grid_or_random"].stdout
    assert "grid    9 points try 3 values" in said and "random  9 points try 9 values" in said
    assert "n = 59  0.9515055" in said and "n = 58  0.9489531" in said
    average = [float(a) for a in re.findall(r"best (\d\.\d+) of 1.01", said)]
    assert average[1] > average[0] + 0.2, "random search was not better along the axis"
    summary = json.loads((tmp_path / "shallow" / "summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.9


def test_the_makefile_names_what_a_machine_lacks(tmp_path):
    import subprocess

    old = tmp_path / "python"
    old.write_text('#!/bin/sh\ncase "$2" in *version*) exit 1;; esac\n')
    old.chmod(0o755)
    command = ["make", "train", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode != 0 and "needs Python 3.11, 3.12 or 3.13" in found.stderr
    old.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode != 0 and "install its venv package" in found.stderr
