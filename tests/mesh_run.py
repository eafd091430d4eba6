"""Steps of small experiments on any mesh, in this process or as one of several.

`python -m tests.mesh_run --system=resnet --out=FILE` is what the tests of several processes start.
"""

import argparse
import dataclasses
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.data import DataConfig
from nn_lib.models import CharLM, CifarResNet
from nn_lib.objectives import classify, next_token
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import LSTMCell
from nn_lib.train import Experiment
from nn_lib.train.run import Run
from nn_lib.train.sharding import MeshConfig

TEXT = "".join(chr(97 + (n * n // 7 + n) % 23) for n in range(4000))


def experiment(system: str, folder: Path) -> Experiment:
    """'resnet', with batch statistics, or 'lstm', with truncated back-propagation and dropout."""
    rest = {
        "optimizer": OptimizerConfig(name="momentum", learning_rate=0.02),
        "batch_size": 16,
        "log_every": 5,
    }
    if system == "resnet":
        return Experiment(
            model=CifarResNet(8),
            objective=classify,
            data=DataConfig(name="digits", train_split="train[:320]"),
            **rest,
        )
    text = folder / "text.txt"
    if not text.exists():
        text.write_text(TEXT)
    return Experiment(
        model=CharLM(cell=LSTMCell(48), dropout=0.1),
        objective=next_token,
        data=DataConfig(path=str(text), sequence_length=6, overlap=3),
        **rest,
    )


def train(config: Experiment, steps: int, dtype) -> dict[str, np.ndarray]:
    """The leaves of the final state, the reports of the steps, checksums of the global batches."""

    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    run = Run.prepare(config)
    state = jax.tree.map(cast, run.initial_state)
    reports, batches = [], []
    for step in range(steps):
        batch = run.layout.put(jax.tree.map(cast, run.batches.at(step)))
        whole = run.layout.fetch(batch)
        batches.append(zlib.crc32(b"".join(np.asarray(whole[k]).tobytes() for k in sorted(whole))))
        state, report = run.train_step(state, batch)
        reports.append(run.layout.fetch(report["metrics"]))
    state = run.layout.fetch(state)
    found = jax.tree_util.tree_flatten_with_path(
        {"params": state.params, "model_state": state.model_state, "carry": state.carry}
    )[0]
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}
    return {**leaves, "reports": np.stack(reports), "batches": np.array(batches)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--model", type=int, default=1)
    parser.add_argument("--dtype", default="float64")
    arguments = parser.parse_args()

    from absl import flags

    from experiments import distributed

    flags.FLAGS([""])
    distributed.join()
    jax.config.update("jax_enable_x64", arguments.dtype == "float64")
    config = experiment(arguments.system, arguments.out.parent)
    config = dataclasses.replace(config, mesh=MeshConfig(-1, arguments.fsdp, arguments.model))
    found = train(config, arguments.steps, arguments.dtype)
    if jax.process_index() == 0:
        np.savez(arguments.out, **found)


if __name__ == "__main__":
    main()
