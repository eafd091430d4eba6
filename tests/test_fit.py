"""`fit` from end to end on small experiments, in this process."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from configs import mnist1d
from nn_lib.checks import UserError
from nn_lib.data import DataConfig, builders
from nn_lib.data.batches import ExampleBatches
from nn_lib.models import MLP, CharLM
from nn_lib.objectives import classify, detect, next_token, regress
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import GRUCell
from nn_lib.train import Experiment, fit, restore
from nn_lib.train.checkpoint import Checkpoints
from nn_lib.train.interrupt import Interrupted
from nn_lib.train.loop import Best
from nn_lib.train.run import Run
from nn_lib.train.training_log import Diverged
from tests.test_codec import CONFIGS


def small(**fields) -> Experiment:
    """A multi-layer perceptron on digits for twenty steps."""
    defaults = {
        "model": MLP(hidden=(8,)),
        "objective": classify,
        "data": DataConfig(name="digits"),
        "optimizer": OptimizerConfig(name="adam", learning_rate=1e-2),
        "batch_size": 32,
        "num_steps": 20,
        "eval_every": 10,
        "checkpoint_every": 5,
        "log_every": 5,
        "select_by": "accuracy",
        "select_mode": "max",
    }
    return Experiment(**{**defaults, **fields})


NAN = float("nan")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_leaves(workdir, step):
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        return checkpoints.read(step)[0]
    finally:
        checkpoints.close()


def test_a_run_leaves_everything_that_was_promised(tmp_path):
    summary = fit(small(), tmp_path / "run", quiet=True)
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "data.json", "metrics.jsonl", "timings.jsonl", "summary.json"} <= names
    assert {"learning_curve.png", "confusion_test.png", "confusion_validation.png"} <= names
    assert any(name.startswith("events") for name in names)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"accuracy", "loss"} <= set(summary["test"])
    found = lines(tmp_path / "run")
    assert [(r["step"], r["split"]) for r in found] == [
        *[(5, "train"), (10, "train"), (10, "validation")],
        *[(15, "train"), (20, "train"), (20, "validation")],
    ]
    assert {"learning_rate", "gradient_norm", "update_to_weight", "loss"} <= set(found[0])
    assert found[0]["learning_rate"] == pytest.approx(1e-2)
    timings = [json.loads(t) for t in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert {t["event"] for t in timings} == {"train", "evaluate", "checkpoint"}
    assert all(t["steps_per_second"] > 0 for t in timings if t["event"] == "train")


def test_two_runs_are_equal_and_another_seed_is_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(small(seed=seed), tmp_path / name, quiet=True)
    text = [(tmp_path / name / "metrics.jsonl").read_text() for name in "abc"]
    assert text[0] == text[1] != text[2]


def test_a_longer_run_continues_a_shorter_one_as_if_it_had_never_stopped(tmp_path):
    fit(small(num_steps=12), tmp_path / "a", quiet=True)
    fit(small(num_steps=20), tmp_path / "a", quiet=True)
    fit(small(num_steps=20), tmp_path / "b", quiet=True)
    ours, theirs = (final_leaves(tmp_path / name, 20) for name in "ab")
    for path, leaf in ours.items():
        if not path.startswith("metrics"):
            np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


def test_the_restored_model_scores_what_the_summary_says(tmp_path):
    summary = fit(small(), tmp_path, quiet=True)
    trained = restore(tmp_path)
    assert trained.step == summary["evaluated_step"]
    pairs = trained.evaluate("test")
    assert float(pairs["accuracy"][0] / pairs["accuracy"][1]) == summary["test"]["accuracy"]
    test = trained.experiment.data
    assert test.name == "digits" and trained.experiment.model.num_classes == 10


def test_the_best_checkpoint_is_that_of_the_best_validation_line(tmp_path):
    summary = fit(small(num_steps=60, eval_every=5, checkpoint_every=0), tmp_path, quiet=True)
    scores = {r["step"]: r["accuracy"] for r in lines(tmp_path) if r["split"] == "validation"}
    assert summary["evaluated_step"] == max(scores, key=lambda step: (scores[step], -step))
    assert summary["validation"]["accuracy"] == max(scores.values())


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("max", [1.0, float("nan"), 3.0, 2.0, float("inf")], 3.0),
        ("min", [2.0, float("nan"), 1.0], 1.0),
    ],
)
def test_a_value_that_is_not_finite_is_never_the_best(mode, values, expected):
    best = Best()
    for step, value in enumerate(values):
        if best.improved_by(value, mode):
            best = Best(step, value)
    assert best.value == expected


def test_the_test_split_is_read_by_the_final_evaluation_only(tmp_path, monkeypatch):
    read = []
    original = Run.measure

    def measure(self, state, split):
        read.append((split, int(state.step)))
        return original(self, state, split)

    monkeypatch.setattr(Run, "measure", measure)
    fit(small(), tmp_path, quiet=True)
    assert [split for split, _ in read].count("test") == 1
    assert read[-1][0] == "test"


def test_a_data_set_without_validation_is_trained_and_its_last_state_tested(tmp_path):
    data = DataConfig(name="mnist1d", train_split="train", validation_split="")
    summary = fit(small(data=data), tmp_path, quiet=True)
    assert "validation" not in summary and summary["evaluated_step"] == 20


def test_the_whole_training_split_can_be_one_batch(tmp_path):
    fit(small(batch_size=0, num_steps=2, eval_every=0), tmp_path, quiet=True)
    assert [r["step"] for r in lines(tmp_path) if r["split"] == "train"] == [2]


def poison(monkeypatch, *steps):
    """Makes the batches of some steps NaN."""
    good = ExampleBatches.at

    def poisoned(self, step):
        batch = good(self, step)
        return {**batch, "inputs": batch["inputs"] * np.float32(np.nan if step in steps else 1)}

    monkeypatch.setattr(ExampleBatches, "at", poisoned)


@pytest.mark.parametrize("log_every", [1, 20])
def test_a_diverging_run_stops_with_its_last_good_checkpoint(tmp_path, monkeypatch, log_every):
    poison(monkeypatch, 7, 8, 9)  # a streak that is over before the next line may be due
    with pytest.raises(Diverged, match=r"not finite in 3 steps in a row .* are intact"):
        fit(small(max_bad_steps=3, log_every=log_every), tmp_path, quiet=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert checkpoints.steps() == [5]
    leaves, _ = checkpoints.read(5)
    checkpoints.close()
    assert all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in leaves.values())


def test_skipped_steps_at_an_evaluation_and_at_the_end_are_saved_like_others(tmp_path, monkeypatch):
    poison(monkeypatch, 9, 19)
    summary = fit(small(), tmp_path, quiet=True)
    assert summary["skipped_steps"] in (1, 2)
    assert final_leaves(tmp_path, 20)["skipped_steps"] == 2
    assert restore(tmp_path).step == summary["evaluated_step"]


def test_when_the_best_checkpoint_is_damaged_the_last_is_evaluated(tmp_path, caplog):
    worst_is_best = small(num_steps=60, eval_every=5, checkpoint_every=0, select_mode="min")
    fit(worst_is_best, tmp_path, quiet=True)
    best = restore(tmp_path).step
    assert best < 60
    (tmp_path / "checkpoints" / str(best) / "state" / "manifest.ocdbt").write_bytes(b"")
    summary = fit(worst_is_best, tmp_path, quiet=True)
    assert summary["evaluated_step"] == 60 and f"checkpoint {best}, the best," in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_the_run_goes_on_to_the_same_end(tmp_path, monkeypatch, number):
    good = ExampleBatches.at

    def interrupting(self, step):
        if step == 7:
            os.kill(os.getpid(), number)
        return good(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(ExampleBatches, "at", interrupting)
        with pytest.raises(Interrupted) as stopped:
            fit(small(), tmp_path / "a", quiet=True)
    assert stopped.value.signal == number and stopped.value.step in (7, 8)
    fit(small(), tmp_path / "a", quiet=True)
    fit(small(), tmp_path / "b", quiet=True)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (
        tmp_path / "b/metrics.jsonl"
    ).read_bytes()
    ours, theirs = (final_leaves(tmp_path / name, 20) for name in "ab")
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


@pytest.mark.parametrize(("module", "variant"), CONFIGS)
def test_every_config_takes_one_shrunk_step(module, variant, few_examples_to_remember):
    config = module.get_config(variant)
    if module.__name__ == "configs.mnist":  # needs a prepared set; digits have its kind of images
        config.data.name = "digits"
        config.data.prepare = upscale_rows if variant == "rows" else upscale
    if config.objective is next_token:
        config.model = config.model.clone(cell=config.model.cell.clone(features=4))
        config.data.sequence_length = 8
    config = dataclasses.replace(config, batch_size=4, num_steps=1, eval_every=0, log_every=1)
    if module.__name__ not in ("configs.char_lm",):
        config.data.train_split = "train[:8]"
    config.data.validation_split = ""
    config.evaluate_with = "last"
    run = Run.prepare(config)
    before = jax.tree.map(np.array, run.initial_state.params)
    after, _ = run.train_step(run.initial_state, run.batches.at(0))
    assert int(after.skipped_steps) == 0 and int(after.step) == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after.params)
    assert any(jax.tree.leaves(moved))


@pytest.fixture(scope="module")
def few_examples_to_remember(tmp_path_factory):
    """Data sets that take seconds to make, made small, in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for builder in (builders.Adding, builders.CopyMemory):
            patch.setattr(builder, "SIZES", [(split, 20) for split, _ in builder.SIZES])
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("small")))
        yield


def upscale(images):
    """8x8 digits as the 32x32 that LeNet expects."""
    return images.repeat(4, 1).repeat(4, 2).astype(np.float32)


def upscale_rows(images):
    return upscale(images)[..., 0]


def text_experiment(path, **fields) -> Experiment:
    return Experiment(
        **{
            "model": CharLM(cell=GRUCell(8)),
            "objective": next_token,
            "data": DataConfig(path=str(path), sequence_length=8),
            "optimizer": OptimizerConfig(learning_rate=1e-2),
            "batch_size": 4,
            "num_steps": 6,
            "eval_every": 3,
            "checkpoint_every": 3,
            "log_every": 3,
            "eval_batch_size": 2,
            **fields,
        }
    )


def test_a_text_is_trained_and_refused_when_it_has_changed(tmp_path):
    text = tmp_path / "text"
    text.write_text("to be or not to be, that is the question. " * 40)
    summary = fit(text_experiment(text), tmp_path / "run", quiet=True)
    assert 0 < summary["test"]["bits_per_character"] < 6
    assert restore(tmp_path / "run").facts.vocabulary.characters[0] == " "
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
        ({"batch_size": 2000}, "batch_size 2000 is larger than the 1257 training examples"),
        ({"select_by": "acuracy"}, "select_by 'acuracy' is unknown; did you mean accuracy"),
        ({"select_mode": "up"}, "select_mode must be max or min, got 'up'"),
        ({"evaluate_with": "first"}, "evaluate_with must be best or last, got 'first'"),
        ({"model": MLP(num_classes=3)}, "model.num_classes is 3, but data set 'digits' has 10"),
        ({"model": MLP(hidden=(-3,))}, "MLP cannot be initialised on inputs float32"),
        ({"model": MLP(num_classes=12)}, "model.num_classes is 12, but data set 'digits' has 10"),
        ({"optimizer": OptimizerConfig(name="adm")}, "did you mean adam"),
        ({"optimizer": OptimizerConfig(momentum=NAN)}, "optimizer.momentum must be at least 0"),
        ({"optimizer": OptimizerConfig(warmup_steps=-1)}, "warmup_steps must not be negative"),
        ({"data": DataConfig(name="python_docs")}, "MLP cannot be initialised|no metric|has no"),
        ({"data": DataConfig(path="")}, "data.path is empty"),
        ({"model": MLP(activation=lambda x: x)}, "experiment.model.activation is a lambda"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        fit(small(**fields), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def tree(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_work_directory_of_another_experiment_is_left_as_it_was(tmp_path):
    fit(small(), tmp_path, quiet=True)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"another experiment: batch_size was 32, is 16; seed was"):
        fit(small(batch_size=16, seed=3), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"was 'nn_lib.models.mlp:MLP', is 'nn_lib.models.convnet"):
        fit(mnist1d.get_config("cnn"), tmp_path, quiet=True)
    assert tree(tmp_path) == before


def test_settings_that_compute_nothing_may_change(tmp_path):
    fit(small(), tmp_path, quiet=True)
    fit(small(log_every=2, eval_every=4, checkpoint_every=3, num_steps=24), tmp_path, quiet=True)
    assert lines(tmp_path)[-1]["step"] == 24


def test_a_schedule_that_ends_with_the_run_cannot_be_made_longer(tmp_path):
    cosine = OptimizerConfig(schedule="cosine")
    fit(small(optimizer=cosine), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"optimizer.decay_steps was 20, is 24"):
        fit(small(optimizer=cosine, num_steps=24), tmp_path, quiet=True)


def test_fewer_steps_than_were_taken_are_refused_and_nothing_changes(tmp_path):
    fit(small(), tmp_path, quiet=True)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="is at step 20, beyond num_steps 10"):
        fit(small(num_steps=10), tmp_path, quiet=True)
    assert tree(tmp_path) == before


def test_streaming_instead_of_holding_the_data_is_the_same_run(tmp_path):
    fit(small(num_steps=10), tmp_path / "a", quiet=True)
    data = DataConfig(name="digits", in_memory_limit=0)
    fit(small(data=data), tmp_path / "a", quiet=True)
    fit(small(), tmp_path / "b", quiet=True)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_damaged_files_of_a_work_directory_are_named(tmp_path):
    fit(small(), tmp_path, quiet=True)
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a damaged data.json"):
        restore(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a damaged config.json"):
        restore(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json.* cannot be read"):
        restore(tmp_path)


def test_a_folder_of_other_things_is_not_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds other files and no config.json"):
        fit(small(), tmp_path, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_work_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another"):
        fit(small(), tmp_path / "file", quiet=True)


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    import filelock

    fit(small(), tmp_path, quiet=True)
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process"):
        fit(small(), tmp_path, quiet=True)


def test_half_a_line_and_lines_beyond_the_checkpoint_are_dropped_on_resume(tmp_path):
    fit(small(), tmp_path, quiet=True)
    metrics = tmp_path / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text(before + '{"step": 25, "split": "train"}\n{"step": 3')
    fit(small(), tmp_path, quiet=True)
    assert metrics.read_text() == before


def resumed_and_undisturbed(tmp_path, experiment, stop_at):
    """The final leaves of a run stopped by a signal and continued, and of one left alone."""
    fit(experiment, tmp_path / "alone", quiet=True)
    original = Run.prepare

    def stopping(experiment):
        run = original(experiment)
        step, calls = run.train_step, []

        def counted(state, batch):
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        run.train_step = counted
        return run

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Run, "prepare", stopping)
        fit(experiment, tmp_path / "stopped", quiet=True)
    fit(experiment, tmp_path / "stopped", quiet=True)
    last = experiment.num_steps
    return final_leaves(tmp_path / "stopped", last), final_leaves(tmp_path / "alone", last)


def test_plateau_average_and_accumulation_are_saved_and_resumed_exactly(tmp_path):
    optimizer = OptimizerConfig(
        name="nesterov",
        variant="lookahead",
        learning_rate=0.5,
        schedule="plateau",
        patience=1,
        decay_rate=0.5,
        frozen=("Dense_1.bias",),
        rates=(("Dense_0", 0.1),),
    )
    experiment = small(
        optimizer=optimizer, eval_every=2, ema_decay=0.9, accumulation=4, checkpoint_every=0
    )
    stopped, alone = resumed_and_undisturbed(tmp_path, experiment, stop_at=11)
    assert stopped.keys() == alone.keys()
    for path, leaf in stopped.items():
        np.testing.assert_array_equal(leaf, alone[path], err_msg=path)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("stopped", "alone")]
    assert texts[0] == texts[1]
    rates = [r["learning_rate"] for r in lines(tmp_path / "alone") if r["split"] == "train"]
    assert 0 < rates[-1] < 0.5, "no plateau was met"
    assert any(path.startswith("ema.") for path in alone)


def test_what_is_evaluated_and_restored_is_the_moving_average(tmp_path):
    summary = fit(small(ema_decay=0.9, evaluate_with="last"), tmp_path, quiet=True)
    leaves = final_leaves(tmp_path, 20)
    trained = restore(tmp_path, checkpoint="last")
    kernel = trained.variables["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel, leaves["ema.Dense_0.kernel"])
    assert not np.array_equal(kernel, leaves["params.Dense_0.kernel"])
    pairs = trained.evaluate("test")
    assert float(pairs["accuracy"][0] / pairs["accuracy"][1]) == summary["test"]["accuracy"]


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


def test_a_regression_is_selected_and_reported_by_its_own_metrics(tmp_path):
    data = DataConfig(name="wave")
    experiment = small(
        data=data,
        objective=regress,
        model=MLP(hidden=(16,)),
        num_steps=200,
        eval_every=100,
        checkpoint_every=0,
        select_by="r2",
    )
    summary = fit(experiment, tmp_path, quiet=True)
    assert set(summary["test"]) == {"loss", "mean_absolute_error", "r2"}
    assert 0.2 < summary["test"]["r2"] <= 1
    assert restore(tmp_path).experiment.model.num_classes == 1


def test_a_run_from_before_a_field_was_added_goes_on_with_its_default(tmp_path):
    fit(small(num_steps=5), tmp_path, quiet=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["fields"]["ema_decay"], config["fields"]["optimizer"]["fields"]["rates"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    fit(small(num_steps=6), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"another experiment: ema_decay was 0.0, is 0.5"):
        fit(small(num_steps=7, ema_decay=0.5), tmp_path, quiet=True)


def test_two_classes_may_be_told_apart_by_one_logit(tmp_path):
    experiment = small(
        data=DataConfig(name="rings"),
        objective=detect,
        model=MLP(hidden=(16,), num_classes=1),
        num_steps=300,
        eval_every=0,
        checkpoint_every=0,
        select_by="exact",
    )
    summary = fit(experiment, tmp_path, quiet=True)
    assert summary["test"]["accuracy"] == summary["test"]["exact"] > 0.95
