"""The ledger of reproduced results: rows promised in docstrings, and what was measured of them.

A docstring promises by lines such as

    Ledger   :cnn  test accuracy 94 %  3 seeds
             :lstm  validation bits_per_character 2.2  1 seed  --config.data.path=$DATA/a.txt

variant, split, metric, expected value, number of seeds, further flags.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nn_lib.checks import UserError

_ROW = re.compile(
    r"(?P<variant>:?\S+)\s+(?P<split>test|validation) (?P<metric>\S+) "
    r"(?P<expected>[\d.]+)(?P<percent> ?%)?\s+(?P<seeds>\d+) seeds?(?P<flags>(\s+--\S+)*)"
    r"(\s+published (?P<published>.+))?$"
)


@dataclasses.dataclass(frozen=True)
class Promise:
    """One row as its docstring has it.

    Attributes:
      source: the file whose docstring it is.
      variant: after the colon of `--config`, or a name where the source is a main.
      split: whose metric it is.
      metric: its name in `summary.json`.
      expected: its value, 0.94 for 94 %.
      percent: whether it is written in per cent.
      seeds: how many runs are measured.
      flags: further flags, where $NAME stands for an environment variable.
      published: what others report, in words; '' where nothing comparable is.
      again: another metric of the runs of a row above.
    """

    source: Path
    variant: str
    split: str
    metric: str
    expected: float
    percent: bool
    seeds: int
    flags: tuple[str, ...]
    published: str = ""
    again: bool = False

    @property
    def name(self) -> str:
        """'mnist1d_paper:cnn' and the flags: which runs are measured."""
        return " ".join([f"{self.source.stem}:{self.variant}", *self.flags])

    @property
    def key(self) -> str:
        """Of its measurement: the name, and the metric where it is not the first of its runs."""
        return f"{self.name} ({self.split} {self.metric})" if self.again else self.name

    def written(self, value: float) -> str:
        """The value as the table shows it."""
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3f}"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of a promise.

    Attributes:
      values: the metric, one per seed.
      seconds: of training, evaluating and saving, the mean of the runs.
      parameters: of the model, None where there is none.
      command: that a run was started with, but for its seed and its work directory.
      commit: of the code.
      device: that it ran on.
    """

    values: tuple[float, ...]
    seconds: float
    parameters: int | None
    command: str
    commit: str
    device: str


def promises(sources: Iterable[Path]) -> list[Promise]:
    """All rows of the docstrings of some files.

    Raises:
      UserError: a row that cannot be read.
    """
    found: list[Promise] = []
    for source in sources:
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        rows: list[str] = []
        for line in text.splitlines():
            if line.startswith("Ledger "):
                rows.append(line.removeprefix("Ledger ").strip())
            elif rows and line.startswith("  "):
                rows.append(line.strip())
            elif rows:
                break
        for row in rows:
            promise = _promise(source, row)
            again = promise.name in {other.name for other in found}
            found.append(dataclasses.replace(promise, again=again))
    return found


def read(file: Path) -> dict[str, Measurement]:
    """The measurements by the keys of their rows; none where there is no file yet."""
    if not file.exists():
        return {}
    records = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: Measurement(**{**record, "values": tuple(record["values"])})
        for name, record in records.items()
    }


def as_json(measured: Mapping[str, Measurement]) -> str:
    """What `read` reads, sorted by name."""
    records = {name: dataclasses.asdict(measured[name]) for name in sorted(measured)}
    return json.dumps(records, indent=1) + "\n"


def as_table(rows: Iterable[Promise], measured: Mapping[str, Measurement]) -> str:
    """A Markdown table: what was promised, what was measured, how long it took, where."""
    lines = [
        "| row | parameters | metric | published | expected | measured, mean ± spread | runs "
        "| time a run | commit | device |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = measured.get(row.key)
        metric = f"{row.split} {row.metric.replace('_', ' ')}"
        expected = row.written(row.expected)
        if found is None:
            before = f"| `{row.name}` | | {metric} | {row.published} | {expected}"
            lines.append(f"{before} | not measured yet | | | | |")
            continue
        values = np.array(found.values)
        value = row.written(float(values.mean()))
        if len(values) > 1:
            value += f" ± {row.written(float(values.std(ddof=1)))}"
        parameters = "" if found.parameters is None else f"{found.parameters:,}"
        lines.append(
            f"| `{row.name}` | {parameters} | {metric} | {row.published} | {expected} | {value} | "
            f"{len(values)} | "
            f"{_duration(found.seconds)} | {found.commit} | {found.device} |"
        )
    return "\n".join(lines) + "\n"


def _promise(source: Path, row: str) -> Promise:
    match = _ROW.match(row)
    if match is None:
        raise UserError(
            f"{source}: the ledger row {row!r} is not 'VARIANT  test METRIC VALUE [%]  N seeds "
            "[--flag=value ...] [published WORDS]'"
        )
    percent = bool(match["percent"])
    return Promise(
        source=source,
        variant=match["variant"].removeprefix(":"),
        split=match["split"],
        metric=match["metric"],
        expected=float(match["expected"]) / (100 if percent else 1),
        percent=percent,
        seeds=int(match["seeds"]),
        flags=tuple(match["flags"].split()),
        published=match["published"] or "",
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
