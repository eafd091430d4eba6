"""How the gradient flows through the recurrent layers of models, initial or trained.

python -m experiments.gradient_flow --workdir=runs/flow --runs=configs/memory.py,runs/adding
Every run is a config, whose initial parameters are looked at, or a work directory, whose trained
ones are. Draws, for one batch: the norm of dL/dh_t over time; the largest singular value of
dh_t/dh_0, in the order of running; the eigenvalues of the recurrent matrices; the norm of
dL/d(output) of dense and convolutional layers. The arrays go to gradient_flow.npz.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import command_line, config_files
from nn_lib.analysis import gradient_flow
from nn_lib.checks import UserError
from nn_lib.data import load
from nn_lib.data.batches import evaluation_batches
from nn_lib.train import Experiment, restore
from nn_lib.train.run import Run

WORKDIR = flags.DEFINE_string("workdir", "", "Where the picture and the arrays go.")
RUNS = flags.DEFINE_list("runs", [], "Configs or work directories to compare.")
BATCH = flags.DEFINE_integer("batch", 50, "Examples of the training split.", lower_bound=1)


class Flow(NamedTuple):
    """What is drawn of one recurrent layer (or of none, for a feed-forward model)."""

    name: str
    time: np.ndarray
    products: np.ndarray
    spectra: list[dict[str, np.ndarray]]


def main() -> None:
    sources = [(source, *_model_of(source)) for source in RUNS.value]
    folder = command_line.output_folder(WORKDIR.value, "gradient_flow.png")
    flows: list[Flow] = []
    layers: dict[str, dict[str, float]] = {}
    for source, experiment, variables in sources:
        own, depth = analyse(source, experiment, variables)
        flows += own
        layers[source] = depth
    arrays: dict[str, Any] = {}
    for flow in flows:
        arrays |= {f"{flow.name} dL/dh_t": flow.time, f"{flow.name} dh_t/dh_0": flow.products}
        for number, own in enumerate(flow.spectra):
            arrays |= {f"{flow.name} {kind} {number}": values for kind, values in own.items()}
        print(f"{flow.name}: |dL/dh_t| is {flow.time[0]:.3g} at the first step, ", end="")
        print(f"{flow.time[-1]:.3g} at the last")
    for source, depth in layers.items():
        arrays |= {f"{source} dL/d {path}": np.array(norm) for path, norm in depth.items()}
        for path, norm in depth.items():
            print(f"{source}: |dL/d output| of {path} is {norm:.3g}")
    np.savez(folder / "gradient_flow.npz", **arrays)
    draw(folder / "gradient_flow.png", flows, layers)
    print(f"written  {folder}/: gradient_flow.png, gradient_flow.npz")


def _model_of(source: str) -> tuple[Experiment, dict]:
    """The experiment, complete, and the variables to look at."""
    if Path(source.partition(":")[0]).is_file():
        run = Run.prepare(config_files.load_config(source))
        return run.experiment, run.initial_state.evaluated
    if not Path(source).is_dir():
        raise UserError(f"--runs: {source!r} is neither a config nor a work directory")
    trained = restore(source)
    return trained.experiment, trained.variables


def analyse(source: str, experiment: Experiment, variables):
    """The flows of the recurrent layers, and the gradient's norms at the layers with a kernel."""
    data = load(experiment.data)
    batch = experiment.data.prepare_batch(next(evaluation_batches(data, "train", BATCH.value)))
    model = experiment.model
    carry = model.initialize_carry(len(batch["inputs"])) if "targets" in batch else None

    def loss(variables):
        return experiment.objective(model, variables, batch, {}, carry, False)[0]

    flows = []
    try:
        found = gradient_flow.recurrent_layers(loss, variables)
    except UserError:
        found = {}
    gradients = gradient_flow.state_gradients(loss, variables) if found else {}
    for path, layer in found.items():
        over_time = gradient_flow.norms_over_time(gradients[path])
        rnn, products = layer.rnn, np.zeros(0)
        if not (rnn.zoneout or rnn.learned_initial_carry):  # jacobians knows neither
            sequence = layer.inputs[0][::-1] if rnn.reverse else layer.inputs[0]
            jacobians = gradient_flow.jacobians(rnn.cell, layer.variables, sequence)
            products = gradient_flow.product_singular_values(jacobians)[:, 0]
        spectra = gradient_flow.spectra(rnn.cell, layer.variables)
        flows.append(Flow(f"{source} {path}", over_time, products, spectra))
    by_layer = gradient_flow.layer_gradients(loss, variables)
    norms = {path: np.linalg.norm(np.asarray(g, np.float64)) for path, g in by_layer.items()}
    return flows, {path: float(norm) for path, norm in norms.items()}


def draw(file: Path, flows: list[Flow], layers: dict[str, dict[str, float]]) -> None:
    """Four panels; what vanishes or explodes shows on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    time, products, plane, depth = (figure.add_subplot(2, 2, n) for n in (1, 2, 3, 4))
    for flow in flows:
        time.semilogy(_positive(flow.time), label=flow.name)
        if len(flow.products):
            products.semilogy(_positive(flow.products), label=flow.name)
        values = [own["eigenvalues"] for own in flow.spectra if "eigenvalues" in own]
        if values:
            points = np.concatenate(values)
            plane.plot(points.real, points.imag, ".", markersize=4, label=flow.name)
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    plane.plot(circle.real, circle.imag, color="black", linewidth=0.7)
    for source, norms in layers.items():
        depth.semilogy(_positive(np.array(list(norms.values()))), "o-", label=source)
    time.set(xlabel="step t", title="norm of dL/dh_t")
    products.set(
        xlabel="step in the order of running",
        title="largest singular value of dh_t/dh_0, one sequence",
    )
    plane.set(title="eigenvalues of the recurrent matrices", aspect="equal")
    depth.set(xlabel="layer", title="norm of dL/d(output), dense and convolutional layers")
    for axis in (time, products, plane, depth):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    figure.savefig(file, dpi=110)


def _positive(values: np.ndarray) -> np.ndarray:
    """Zeros are left out of a logarithmic axis."""
    return np.where(values > 0, values, np.nan)


if __name__ == "__main__":
    command_line.run(main, required=("workdir", "runs"))
