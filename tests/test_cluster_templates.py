"""The templates for clusters: what they would start, with the cluster's own commands replaced."""

import os
import shlex
import subprocess

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from configs import imagenet
from tests.processes import ROOT

CLUSTER = ROOT / "docs" / "cluster"


def shell(template, folder, **variables):
    """The commands that a script gives to `srun` or `gcloud`, each as its words."""
    for name in ("srun", "gcloud"):
        stub = folder / name
        stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\nprintf "\\n"\n')
        stub.chmod(0o755)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "USER": "me"}
    found = subprocess.run(
        ["bash", str(CLUSTER / template)],
        cwd=folder,
        env={**environment, **variables},
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.rstrip("\0").split("\0") for line in found.stdout.split("\0\n")[:-1]]


def slurm(folder):
    (words,) = shell("slurm.sh", folder, SLURM_CPUS_PER_TASK="8")
    return words


def tpu_pod(folder):
    *_, words = shell("tpu_pod.sh", folder)
    return shlex.split(words[-1].removeprefix("--command="))


def jobset(folder):
    manifest = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    return shlex.split(job["template"]["spec"]["containers"][0]["command"][-1])


@pytest.mark.parametrize("template", [slurm, tpu_pod, jobset])
def test_a_template_trains_the_recipe_at_its_batch(template, tmp_path):
    words = template(tmp_path)
    arguments = words[words.index("experiments.train") :]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    assert values(arguments) == arguments[:1]  # every flag and field is known
    assert values.workdir and values.config.data.data_dir
    ours, recipe = values.config, imagenet.get_config("resnet50")
    times = ours.batch_size / recipe.batch_size
    assert times == 4
    # Goyal et al. 2017: k times the batch, k times the rate, the same epochs.
    rate, warmup = ours.optimizer.learning_rate, ours.optimizer.warmup_steps
    assert rate == pytest.approx(times * recipe.optimizer.learning_rate)
    assert warmup * times == recipe.optimizer.warmup_steps
    assert ours.num_steps * times == recipe.num_steps
    examples = 1_281_167
    assert ours.num_steps * ours.batch_size / examples == pytest.approx(90, rel=1e-3)
    assert ours.eval_every == ours.checkpoint_every == examples // ours.batch_size


def test_srun_is_told_the_cores_of_a_task(tmp_path):
    words = slurm(tmp_path)
    assert "--cpus-per-task=8" in words[: words.index("python")]


def test_a_tpu_host_gets_a_python_that_the_project_runs_on(tmp_path):
    commands = shell("tpu_pod.sh", tmp_path)
    (install,) = (words[-1] for words in commands if "uv venv" in words[-1])
    words = install.split()
    assert words[words.index("--python") + 1] in ("3.11", "3.12", "3.13")
