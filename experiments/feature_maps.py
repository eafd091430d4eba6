"""Fixed feature maps against learned ones: trains every variant and draws what it found.

python -m experiments.feature_maps --workdir=runs/feature_maps
Fits on the wave, decision boundaries on the rings, the loss over the two weights of a line.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import feature_maps
from experiments import command_line
from nn_lib.classic import by_hand
from nn_lib.data import load
from nn_lib.train import Trained, fit, restore

WORKDIR = flags.DEFINE_string("workdir", "", "Where the runs and the pictures go.")
STEPS = flags.DEFINE_integer("steps", 2000, "Updates of each variant.", lower_bound=1)


def main() -> None:
    folder = command_line.output_folder(WORKDIR.value, "fits.png")
    trained = {}
    print(f"{'':16}  parameters  test")
    for variant in feature_maps.MAPS:
        experiment = feature_maps.get_config(variant)
        experiment.num_steps = STEPS.value
        summary = fit(experiment, folder / variant, quiet=True)
        trained[variant] = restore(folder / variant)
        name = "r2" if "r2" in summary["test"] else "accuracy"
        result = f"{name} {summary['test'][name]:.3f}"
        print(f"{variant:16}  {summary['parameters']:10}  {result}", flush=True)
    corners = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    print(f"XOR by two hidden units, exactly: {by_hand.xor(*corners).tolist()}")
    draw_fits(folder / "fits.png", trained)
    draw_boundaries(folder / "boundaries.png", trained)
    draw_loss_surface(folder / "loss_surface.png", trained["wave_line"])
    print(f"pictures  {folder}/: boundaries.png, fits.png, loss_surface.png")


def draw_fits(file: Path, trained: dict[str, Trained]) -> None:
    """The training points of the wave and the function that each variant fitted."""
    figure, (axis,) = _panels(1, (8, 4.5))
    examples = load(trained["wave_line"].experiment.data).split("train")
    axis.plot(examples.inputs[:, 0], examples.labels[:, 0], ".", color="0.6", label="training")
    x = np.linspace(-3.5, 3.5, 400, dtype=np.float32)[:, None]
    for variant, run in trained.items():
        if variant.startswith("wave"):
            axis.plot(x[:, 0], _outputs(run, x)[:, 0], label=variant.removeprefix("wave_"))
    axis.set(xlabel="x", ylabel="y", title="w . phi(x) for fixed phi, and a learned one")
    axis.legend()
    figure.savefig(file, dpi=110)


def draw_boundaries(file: Path, trained: dict[str, Trained]) -> None:
    """The points of the rings, and the probability of the outer one over the plane."""
    variants = [name for name in trained if name.startswith("rings")]
    figure, axes = _panels(len(variants), (4 * len(variants), 4.2))
    side = np.linspace(-2.6, 2.6, 150, dtype=np.float32)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    examples = load(trained[variants[0]].experiment.data).split("train")
    for variant, axis in zip(variants, axes):
        logits = _outputs(trained[variant], plane)
        margin = (logits[:, 1] - logits[:, 0]).reshape(len(side), -1)
        axis.contourf(side, side, 1 / (1 + np.exp(-margin)), 20, cmap="RdBu", vmin=0, vmax=1)
        if margin.min() < 0 < margin.max():
            axis.contour(side, side, margin, levels=[0], colors="black")
        for label, marker in ((0, "o"), (1, "x")):
            points = examples.inputs[examples.labels == label]
            axis.plot(points[:, 0], points[:, 1], marker, color="black", markersize=3)
        axis.set(title=variant.removeprefix("rings_"), aspect="equal")
    figure.savefig(file, dpi=110)


def draw_loss_surface(file: Path, run: Trained) -> None:
    """The mean squared loss of a line over its slope and its bias: a bowl, one minimum."""
    figure, (axis,) = _panels(1, (6, 4.8))
    examples = load(run.experiment.data).split("train")
    x, y = examples.inputs[:, 0], examples.labels[:, 0]
    slopes, biases = np.linspace(-2, 3, 80), np.linspace(-3, 3, 80)
    residuals = slopes[None, :, None] * x + biases[:, None, None] - y
    surface = (residuals**2).mean(-1)
    shown = axis.contourf(slopes, biases, np.log10(surface), 30)
    figure.colorbar(shown, label="log10 of the mean squared loss")
    dense = run.variables["params"]["mlp"]["Dense_0"]
    axis.plot(dense["kernel"].item(), dense["bias"].item(), "r*", markersize=14, label="trained")
    axis.set(xlabel="slope", ylabel="bias", title="the loss of a line on the wave")
    axis.legend()
    figure.savefig(file, dpi=110)


def _outputs(run: Trained, inputs: np.ndarray) -> np.ndarray:
    batch = run.experiment.data.prepare_batch({"inputs": jnp.asarray(inputs)})
    return np.asarray(run.experiment.model.apply(run.variables, batch["inputs"]))


def _panels(count: int, size: tuple[float, float]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))
