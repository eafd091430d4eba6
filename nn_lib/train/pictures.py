"""Pictures of a run: its learning curve and its confusion matrix, as PNG files."""

import json
from pathlib import Path

import numpy as np

from nn_lib.train import files
from nn_lib.train.workdir import METRICS


def learning_curve(workdir: Path, names: tuple[str, ...]) -> Path:
    """One panel per metric, training and validation over the steps, read from metrics.jsonl."""
    records = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    figure, axes = _figure(len(names))
    for name, axis in zip(names, axes):
        for split in ("train", "validation"):
            points = [
                (record["step"], record[name])
                for record in records
                if record["split"] == split and record.get(name) is not None
            ]
            if points:
                axis.plot(*zip(*points), label=split, marker="." if len(points) < 30 else None)
        axis.set(xlabel="step", title=name.replace("_", " "))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    return _save(figure, workdir / "learning_curve.png")


def confusion_matrix(workdir: Path, matrix: np.ndarray, class_names, split: str) -> Path:
    """Rows are true classes, columns predicted ones; up to 30, every cell shows its count."""
    figure, (axis,) = _figure(1, size=min(max(4.8, 0.45 * len(matrix)), 13.5))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(matrix) <= 30:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                shade = "white" if shares[row, column] > 0.5 else "black"
                place = {"ha": "center", "va": "center", "size": 8}
                axis.text(column, row, f"{count:.0f}", color=shade, **place)
        axis.set_xticks(range(len(matrix)), class_names, rotation=90 if len(matrix) > 12 else 0)
        axis.set_yticks(range(len(matrix)), class_names)
    correct = np.trace(matrix) / max(matrix.sum(), 1)
    title = f"{split}: {correct:.2%} of {matrix.sum():.0f}"
    axis.set(xlabel="predicted", ylabel="true", title=title)
    return _save(figure, workdir / f"confusion_{split}.png")


def alignments(file: Path, written) -> Path:
    """How each token that was written (rows) looked at those of the source (columns).

    Args:
      written: `texts.Written`s with an alignment, a panel each.
    """
    longest = max(max(one.alignment.shape) for one in written)
    figure, axes = _figure(len(written), size=min(max(2.4, 0.3 * longest), 12))
    for one, axis in zip(written, axes):
        axis.imshow(one.alignment, cmap="Greys", vmin=0, vmax=1)
        axis.set_xticks(range(len(one.source)), one.source, rotation=90)
        axis.set_yticks(range(len(one.tokens)), one.tokens)
    return _save(figure, file)


def _figure(panels: int, size: float = 4.8):
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(size * panels, size), layout="constrained")
    return figure, [figure.add_subplot(1, panels, index + 1) for index in range(panels)]


def _save(figure, file: Path) -> Path:
    with files.saving(file):
        figure.savefig(file, dpi=110)
    return file
