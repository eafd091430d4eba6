"""The mains on names, sentences and sums: what they write, and one line for every mistake."""

import re

import pytest

from tests.mistakes import QUICK, check, make
from tests.processes import run_forked

pytestmark = pytest.mark.slow

NAMES = "--config=configs/names.py"
SUMS = "--config=configs/addition.py"
SENTENCES = "--config=configs/sentences.py"
TABLE = "--config.data.layout=labelled"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A name classifier and an adder, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    small = ("--config.model.cell.features=16", "--config.data.name=addition/2")
    names = [NAMES + ":tutorial", f"--workdir={folder / 'names'}", *QUICK]
    sums = [SUMS, f"--workdir={folder / 'sums'}", *QUICK, *small]
    for found in run_forked([("train", arguments) for arguments in (names, sums)]):
        assert found.returncode == 0, found.stderr
    return folder


def test_texts_are_classified_and_transcribed_from_the_command_line(runs, tmp_path):
    names, sums = (f"--workdir={runs / name}" for name in ("names", "sums"))
    file, picture = tmp_path / "sums.txt", tmp_path / "look.png"
    file.write_text("1+2\n\n30+4\n")
    classes, several, one = run_forked(
        [
            ("generate", [names, "--prompt=Alef", "--prompt=Ka"]),
            ("generate", [sums, f"--input={file}", "--beam=2", f"--picture={picture}"]),
            ("generate", [sums, "--prompt=1+2", "--length=9"]),
        ]
    )
    rows = [line.split("\t") for line in classes.stdout.splitlines()]
    assert [row[0] for row in rows] == ["Alef", "Ka"]
    assert all(len(re.findall(r"\d%", row[1])) == 3 for row in rows)
    assert [line.split("\t")[0] for line in several.stdout.splitlines()[:4]] == [
        *("1+2", "1+2", "30+4", "30+4")
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    cut = "(\tcut at --length=9)?"  # hardly trained, it may not know when to end
    assert re.fullmatch(rf"1\+2\t\d*\tlog P -[\d.]+{cut}\n", one.stdout), one


MISTAKES = [
    ("generate", ["--workdir={runs}/names"], "give it a text: --prompt=TEXT, or --input=FILE"),
    ("generate", ["--workdir={runs}/names", "--prompt=12"], "nothing is left of the text '12'"),
    ("generate", ["--workdir={runs}/names", "--input={tmp}/empty"], "holds no text"),
    ("generate", ["--workdir={runs}/names", "--input=/no/file"], "--input: cannot read"),
    ("generate", ["--workdir={runs}/sums", "--prompt=1+x"], "model's vocabulary lacks: 'x'"),
    ("generate", ["--workdir={runs}/sums", "--prompt=1+1", "--beam=0"], "must be above 0"),
    (
        "train",
        [NAMES, "--workdir={work}", "--config.data.path={tmp}/empty", TABLE],
        "file is empty",
    ),
    (
        "train",
        [SENTENCES, "--workdir={work}", "--config.data.path={tmp}/short", TABLE],
        "line 1 of",
    ),
    ("train", [NAMES, "--workdir={work}", "--config.data.layout=labeled"], "did you mean labelled"),
    ("train", [NAMES, "--workdir={work}", "--config.data.path={tmp}/one", TABLE], "one class only"),
    (
        "train",
        [
            NAMES,
            "--workdir={work}",
            "--config.data.path={tmp}/two",
            TABLE,
            "--config.data.max_length=3",
        ],
        "tokens, more than data.max_length 3; raise it",
    ),
    ("train", [SUMS, "--workdir={work}", "--config.data.name=digits"], "cannot be initialised on"),
]


@pytest.fixture(scope="module")
def answers(runs, tmp_path_factory):
    return make(MISTAKES, runs, tmp_path_factory)


@pytest.mark.parametrize("index", range(len(MISTAKES)), ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(answers, index):
    check(answers, MISTAKES, index)


def test_no_mistake_touches_a_work_directory(answers):
    assert answers.nothing_changed
