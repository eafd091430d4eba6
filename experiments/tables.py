"""Numbers as aligned text."""


def metrics_table(summary: dict) -> str:
    """A row per split of a summary, a column per metric."""
    splits = {name: values for name, values in summary.items() if isinstance(values, dict)}
    names = sorted({name for values in splits.values() for name in values})
    rows = [["", *(name.replace("_", " ") for name in names)]]
    for split, values in splits.items():
        rows.append([split, *(_number(name, values.get(name)) for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4f}"
