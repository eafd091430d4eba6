"""What `fit` refuses: mistakes, and work directories of something else."""

import json
import shutil
import threading

import filelock
import pytest

from configs import mnist1d
from nn_lib.checks import UserError
from nn_lib.data import DataConfig
from nn_lib.models import MLP
from nn_lib.optim import OptimizerConfig
from nn_lib.train import fit, restore, workdir
from tests.small_runs import lines, small, text_experiment, tree

pytestmark = pytest.mark.usefixtures("undrawn")

NAN = float("nan")


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(small(), folder, quiet=True)
    return folder


@pytest.fixture
def trained(a_run, tmp_path):
    """A work directory of `small()`, to be spoilt."""
    return shutil.copytree(a_run, tmp_path / "trained")


def test_a_text_is_trained_and_refused_when_it_has_changed(tmp_path):
    text = tmp_path / "text"
    text.write_text("to be or not to be, that is the question. " * 40)
    summary = fit(text_experiment(text), tmp_path / "run", quiet=True)
    assert 0 < summary["test"]["bits_per_character"] < 6
    assert restore(tmp_path / "run").facts.vocabulary.tokens[0] == " "
    text.write_text("to be or not to be, that si the question. " * 40)
    with pytest.raises(UserError, match="was trained on other data"):
        fit(text_experiment(text), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="not what this run was trained on"):
        restore(tmp_path / "run").evaluate("test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": -1}, r"batch_size must be a whole number, 0 or more .* got -1"),
        ({"num_steps": 0}, "num_steps must be a whole number, 1 or more, got 0"),
        ({"log_every": 0}, "log_every must be a whole number, 1 or more, got 0"),
        ({"seed": 2**32}, r"seed must be below 2\*\*32"),
        ({"batch_size": 2000}, "batch_size 2000 is larger than the 320 training examples"),
        ({"select_by": "acuracy"}, "select_by 'acuracy' is unknown; did you mean accuracy"),
        ({"select_mode": "up"}, "select_mode must be max or min, got 'up'"),
        ({"evaluate_with": "first"}, "evaluate_with must be best or last, got 'first'"),
        ({"model": MLP(num_classes=3)}, "model.num_classes is 3, but data set 'digits' has 10"),
        ({"model": MLP(hidden=(-3,))}, "MLP cannot be initialised on inputs float32"),
        ({"model": MLP(num_classes=12)}, "model.num_classes is 12, but data set 'digits' has 10"),
        ({"optimizer": OptimizerConfig(name="adm")}, "did you mean adam"),
        (
            {"optimizer": OptimizerConfig(momentum=NAN)},
            "optimizer.momentum must be at least 0",
        ),
        ({"optimizer": OptimizerConfig(warmup_steps=-1)}, "warmup_steps must not be negative"),
        (
            {"data": DataConfig(name="python_docs")},
            "the data is one long text, and MLP takes",
        ),
        ({"data": DataConfig(path="")}, "data.path is empty"),
        ({"model": MLP(activation=lambda x: x)}, "experiment.model.activation is a lambda"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        fit(small(**fields), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_work_directory_of_another_experiment_is_left_as_it_was(trained):
    before = tree(trained)
    with pytest.raises(UserError, match=r"another experiment: batch_size was 32, is 16; seed was"):
        fit(small(batch_size=16, seed=3), trained, quiet=True)
    with pytest.raises(UserError, match=r"was 'nn_lib.models.mlp:MLP', is 'nn_lib.models.convnet"):
        fit(mnist1d.get_config("cnn"), trained, quiet=True)
    assert tree(trained) == before


def test_settings_that_compute_nothing_may_change(trained):
    fit(small(log_every=2, eval_every=4, checkpoint_every=3, num_steps=24), trained, quiet=True)
    assert lines(trained)[-1]["step"] == 24


def test_a_schedule_that_ends_with_the_run_cannot_be_made_longer(tmp_path):
    cosine = OptimizerConfig(schedule="cosine")
    fit(small(optimizer=cosine), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"optimizer.decay_steps was 20, is 24"):
        fit(small(optimizer=cosine, num_steps=24), tmp_path, quiet=True)


def test_fewer_steps_than_were_taken_are_refused_and_nothing_changes(trained):
    before = tree(trained)
    with pytest.raises(UserError, match="is at step 20, beyond num_steps 10"):
        fit(small(num_steps=10), trained, quiet=True)
    assert tree(trained) == before


def test_damaged_files_of_a_work_directory_are_named(trained):
    (trained / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a damaged data.json"):
        restore(trained)
    (trained / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a damaged config.json"):
        restore(trained)
    (trained / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json.* cannot be read"):
        restore(trained)


def test_a_folder_of_other_things_is_not_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds other files and no config.json"):
        fit(small(), tmp_path, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_work_directory_that_cannot_be_looked_into_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the work directory .*File name too long"):
        fit(small(), tmp_path / ("x" * 300), quiet=True)


def test_a_file_is_no_work_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another"):
        fit(small(), tmp_path / "file", quiet=True)


def test_two_processes_cannot_train_in_one_directory(trained):
    with filelock.FileLock(trained / ".lock"), pytest.raises(UserError, match="another process"):
        fit(small(), trained, quiet=True)


def test_the_lock_of_a_lost_machine_is_waited_for_by_the_processes_of_a_job(tmp_path, caplog):
    """Its file system gives it up after a minute or two."""
    lost = filelock.FileLock(tmp_path / ".lock", thread_local=False)
    lost.acquire()
    threading.Timer(0.5, lost.release).start()
    with caplog.at_level("WARNING", "nn_lib"), workdir.locked(tmp_path, patience=20):
        assert "another process works in" in caplog.text and "waiting up to 20 s" in caplog.text


def test_how_often_is_evaluated_may_not_change_where_it_drives_the_schedule(tmp_path):
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1, schedule="plateau")
    fit(small(optimizer=optimizer, num_steps=2), tmp_path, quiet=True)
    with pytest.raises(UserError, match="another experiment: eval_every was 10, is 5"):
        fit(small(optimizer=optimizer, num_steps=4, eval_every=5), tmp_path, quiet=True)


PLATEAU = OptimizerConfig(schedule="plateau")


NO_VALIDATION = DataConfig(name="mnist1d", train_split="train", validation_split="")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulation": 5}, "accumulation 5 does not divide the batch of 32"),
        ({"accumulation": 0}, "accumulation must be a whole number, 1 or more"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, got 1.0"),
        ({"reduction": "max"}, "reduction must be mean or sum, got 'max'"),
        ({"optimizer": PLATEAU, "eval_every": 0}, "plateau schedule needs eval_every above 0"),
        (
            {"optimizer": PLATEAU, "data": NO_VALIDATION},
            "the plateau schedule needs a validation split, and there is none",
        ),
        (
            {"optimizer": OptimizerConfig(frozen=("Conv_0",))},
            r"optimizer.frozen: 'Conv_0' matches no parameter; there are Dense_0.bias, Dense_0.ke",
        ),
        ({"select_by": "f1"}, "select_by 'f1' is unknown; .*accuracy"),
    ],
)
def test_a_mistake_of_the_recipe_is_named_before_anything_is_written(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        fit(small(**fields), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_a_field_was_added_goes_on_with_its_default(tmp_path):
    fit(small(num_steps=5), tmp_path, quiet=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["fields"]["ema_decay"], config["fields"]["optimizer"]["fields"]["rates"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    fit(small(num_steps=6), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"another experiment: ema_decay was 0.0, is 0.5"):
        fit(small(num_steps=7, ema_decay=0.5), tmp_path, quiet=True)
