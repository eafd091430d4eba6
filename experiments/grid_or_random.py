"""Grid against random search on a function with one important axis of two.

python -m experiments.grid_or_random --workdir=runs/grid_or_random
A grid of n x n points tries n values of the axis that matters, random search n^2 of them; and one
of 59 random points is in the best 5 % with a probability above 95 %. Bergstra & Bengio 2012.
"""

from pathlib import Path

import numpy as np
from absl import flags

from experiments import command_line
from nn_lib.search import space

WORKDIR = flags.DEFINE_string("workdir", "", "Where the picture goes.")
SIDE = flags.DEFINE_integer("side", 3, "Points along each axis of the grid.", lower_bound=2)
REPEATS = flags.DEFINE_integer("repeats", 2000, "Functions and searches averaged.", lower_bound=1)

AXES = {"important": space.Uniform(0.0, 1.0), "other": space.Uniform(0.0, 1.0)}


def score(important, other, peak: float):
    """A narrow peak along one axis, a hundredth of its height along the other; at most 1.01."""
    return np.exp(-(((important - peak) / 0.1) ** 2) / 2) + 0.01 * other


def main() -> None:
    folder = command_line.output_folder(WORKDIR.value, "grid_or_random.png")
    side, rng = SIDE.value, np.random.default_rng(0)
    grid = np.array([list(point.values()) for point in space.grid(AXES, side)])
    everywhere = np.array([list(point.values()) for point in space.grid(AXES, 101)])
    best: dict[str, list[float]] = {"grid": [], "random": []}
    in_top = {n: 0 for n in (10, 30, 58, 59, 60)}
    for repeat in range(REPEATS.value):
        peak = rng.uniform()
        points = np.array([list(p.values()) for p in space.sample(AXES, max(60, side**2), repeat)])
        scores = score(points[:, 0], points[:, 1], peak)
        best["grid"].append(score(grid[:, 0], grid[:, 1], peak).max())
        best["random"].append(scores[: side**2].max())
        threshold = np.quantile(score(everywhere[:, 0], everywhere[:, 1], peak), 0.95)
        for n in in_top:
            in_top[n] += bool((scores[:n] > threshold).any())
    points = points[: side**2]
    count = {"grid": len(set(grid[:, 0])), "random": len(set(points[:, 0]))}
    for name in ("grid", "random"):
        print(
            f"{name:6}  {side**2} points try {count[name]} values of the axis that matters; "
            f"best {np.mean(best[name]):.3f} of 1.01 on average"
        )
    print("\nat least one of n random points in the best 5 % of the space: 1 - 0.95^n")
    for n, hits in in_top.items():
        print(f"n = {n:2}  {1 - 0.95**n:.7f}  seen {hits / REPEATS.value:.3f}")
    draw(folder / "grid_or_random.png", {"grid": grid, "random": points}, peak)
    print(f"\npicture  {folder / 'grid_or_random.png'}")


def draw(file: Path, searches: dict[str, np.ndarray], peak: float) -> None:
    """The points of both searches over the last function, and what they see of its main axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    line = np.linspace(0, 1, 200)
    for index, (name, points) in enumerate(searches.items()):
        axis = figure.add_subplot(1, 2, index + 1)
        axis.contourf(line, line, score(line[None], line[:, None], peak), 20, alpha=0.5)
        axis.plot(points[:, 0], points[:, 1], "ko")
        axis.plot(points[:, 0], np.full(len(points), -0.04), "k|", markersize=12, clip_on=False)
        values = len(set(points[:, 0]))
        axis.set(title=f"{name}: {values} values of the important axis", xlabel="important axis")
        axis.set(ylabel="other axis", ylim=(-0.06, 1.02))
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))
