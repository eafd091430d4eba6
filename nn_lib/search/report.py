"""What a sweep shows: a CSV table, the metric against each field, a heat map of two."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nn_lib.search.space import LogUniform
from nn_lib.search.sweep import Plan, Row
from nn_lib.train import files


def write_csv(file: Path, plan: Plan, rows: Sequence[Row]) -> None:
    """One line a trial, in the order of the plan: fields, status, metrics, time, error."""
    fields = [*plan.space, "seed"]
    measured = sorted({f"{split}_{name}" for row in rows for split, name in _metrics(row)})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", *fields, "status", "steps", *measured, "seconds", "error"])
    for row in rows:
        found = {f"{s}_{n}": row.outcome.metric(n, s) for s, n in _metrics(row)}
        table.writerow(
            [
                row.trial.name,
                *(row.trial.fields[field] for field in fields),
                "done" if row.outcome.summary else "failed",
                row.steps,
                *(_text(found.get(name)) for name in measured),
                row.outcome.seconds,
                row.outcome.error or "",
            ]
        )
    files.write_atomically(file, text.getvalue())


def draw(folder: Path, plan: Plan, rows: Sequence[Row]) -> list[Path]:
    """`metric_by_field.png`, and `heat_map.png` for two fields."""
    done = [row for row in rows if row.outcome.metric(plan.metric) is not None]
    if not done:
        return []
    pictures = [_by_field(folder / "metric_by_field.png", plan, done)]
    if len(plan.space) == 2:
        pictures.append(_heat_map(folder / "heat_map.png", plan, done))
    return pictures


def _by_field(file: Path, plan: Plan, rows: Sequence[Row]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(plan.space), 3.8), layout="constrained")
    values = np.array([row.outcome.metric(plan.metric) for row in rows])
    for index, (field, axis_range) in enumerate(plan.space.items()):
        axis = figure.add_subplot(1, len(plan.space), index + 1)
        places, labels = _places([row.trial.fields[field] for row in rows])
        axis.plot(places, values, "o", alpha=0.6)
        if len(set(places)) < len(places):
            levels = sorted(set(places))
            means = [values[np.asarray(places) == level].mean() for level in levels]
            axis.plot(levels, means, "-", color="0.4", label="mean")
            axis.legend()
        if labels:
            axis.set_xticks(range(len(labels)), labels)
        elif isinstance(axis_range, LogUniform) or 0 < 5 * min(places) < max(places):
            axis.set_xscale("log")
        axis.set(xlabel=field, ylabel=f"validation {plan.metric.replace('_', ' ')}")
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    return file


def _heat_map(file: Path, plan: Plan, rows: Sequence[Row]) -> Path:
    """Cells of mean metric where both fields have few values, else points in the plane."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axis = figure.add_subplot()
    (across, across_range), (up, up_range) = plan.space.items()
    xs, ys = ([row.trial.fields[field] for row in rows] for field in (across, up))
    values = np.array([row.outcome.metric(plan.metric) for row in rows])
    columns, lines = _levels(xs), _levels(ys)
    if len(columns) * len(lines) <= 2 * len(rows):
        cells = np.full((len(lines), len(columns)), np.nan)
        for line, y in enumerate(lines):
            for column, x in enumerate(columns):
                here = [v for v, a, b in zip(values, xs, ys) if (a, b) == (x, y)]
                if here:
                    cells[line, column] = np.mean(here)
                    axis.text(column, line, f"{np.mean(here):.3g}", ha="center", va="center")
        shown = axis.imshow(cells, aspect="auto", origin="lower", cmap="viridis", alpha=0.8)
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(lines)), lines)
    else:
        (x_places, x_labels), (y_places, y_labels) = _places(xs), _places(ys)
        shown = axis.scatter(x_places, y_places, c=values, s=120, cmap="viridis")
        for labels, found, ticks, scale in (
            (x_labels, across_range, axis.set_xticks, axis.set_xscale),
            (y_labels, up_range, axis.set_yticks, axis.set_yscale),
        ):
            if labels:
                ticks(range(len(labels)), labels)
            elif isinstance(found, LogUniform):
                scale("log")
    figure.colorbar(shown, label=f"validation {plan.metric.replace('_', ' ')}")
    axis.set(xlabel=across, ylabel=up)
    figure.savefig(file, dpi=110)
    return file


def _places(values: list) -> tuple[list[float], list[str]]:
    """Positions on an axis, and names for them where the values are no numbers."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], []
    levels = _levels(values)
    return [float(levels.index(value)) for value in values], [str(level) for level in levels]


def _levels(values: list) -> list:
    return sorted(set(values), key=lambda value: (str(type(value)), value))


def _metrics(row: Row) -> list[tuple[str, str]]:
    summary = row.outcome.summary or {}
    splits = {name: values for name, values in summary.items() if isinstance(values, dict)}
    return [(split, name) for split, values in splits.items() for name in values]


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)
