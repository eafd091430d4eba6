"""Trains an experiment, or continues it where it was stopped.

python -m experiments.train --config=configs/mnist1d.py:cnn --workdir=runs/mnist1d_cnn
python -m experiments.train ... --profile=100:110
"""

from pathlib import Path

from absl import flags

from experiments import command_line, config_files, distributed
from experiments.tables import metrics_table
from nn_lib.train import fit
from nn_lib.train.processes import first
from nn_lib.train.tracing import Steps
from nn_lib.train.watchdog import STEP_LIMIT as STEP_LIMIT_DEFAULT
from nn_lib.train.workdir import read_facts

CONFIG = config_files.define_config()
WORKDIR = flags.DEFINE_string("workdir", "", "Where the run lives; the same again continues it.")
PROFILE = flags.DEFINE_string(
    "profile",
    "",
    "START:STOP: traces these steps (STOP excluded) into the work directory and prints the ten "
    "costliest operations; a run that continues past START does not.",
)
STEP_LIMIT = flags.DEFINE_float(
    "step_limit",
    STEP_LIMIT_DEFAULT,
    "Seconds after which a step that has not ended is reported with the stack of every thread; "
    "ten times that for what compiles, evaluates or saves. 0 is never.",
    lower_bound=0,
)


def main() -> None:
    workdir = Path(WORKDIR.value).expanduser()
    profile = Steps.parse(PROFILE.value) if PROFILE.value else None
    summary = fit(CONFIG.value, workdir, profile=profile, step_limit=STEP_LIMIT.value)
    if not first():
        return
    print(metrics_table(summary))
    pictures = ", ".join(file.name for file in sorted(workdir.glob("*.png")))
    print(f"pictures     {workdir}/: {pictures}")
    print(f"events       tensorboard --logdir={workdir}")
    print(f"checkpoints  {workdir / 'checkpoints'}")
    print("next         " + "\n             ".join(_next_commands(workdir, summary)))


def _next_commands(workdir: Path, summary: dict) -> list[str]:
    split = "test" if "test" in summary else "validation"
    evaluate = f"python -m experiments.evaluate --workdir={workdir} --split={split}"
    facts = read_facts(workdir)
    if facts.vocabulary is not None:
        goes_on = facts.class_names is None and facts.target_vocabulary is None
        rest = "--length=500" if goes_on else "--prompt=TEXT"
        return [f"python -m experiments.generate --workdir={workdir} {rest}", evaluate]
    character_model = "--config=configs/char_lm.py --workdir=runs/char_lm"
    return [evaluate, f"python -m experiments.train {character_model}"]


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"), join=distributed.join)
