"""What is searched: ranges of config fields, as text from the command line, and points in them."""

import ast
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nn_lib.checks import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the values, written `[sgd, adam]`."""

    values: tuple

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[rng.integers(len(self.values))]

    def grid(self, points: int) -> list:
        return list(self.values)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number between `low` and `high`, written `uniform(0, 0.5)`."""

    low: float
    high: float

    def sample(self, rng: np.random.Generator) -> float:
        return _short(self, rng.uniform(self.low, self.high))

    def grid(self, points: int) -> list:
        return _unique(_short(self, value) for value in np.linspace(self.low, self.high, points))


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A number whose logarithm is uniform, written `loguniform(1e-4, 1e-1)`."""

    low: float
    high: float

    def sample(self, rng: np.random.Generator) -> float:
        return _short(self, math.exp(rng.uniform(math.log(self.low), math.log(self.high))))

    def grid(self, points: int) -> list:
        return _unique(_short(self, value) for value in np.geomspace(self.low, self.high, points))


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included, written `integer(16, 256)`."""

    low: int
    high: int

    def sample(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.low, self.high, endpoint=True))

    def grid(self, points: int) -> list:
        return _unique(round(value) for value in np.linspace(self.low, self.high, points))


Range = Choice | Uniform | LogUniform | Integer
KINDS: dict[str, Any] = {"uniform": Uniform, "loguniform": LogUniform, "integer": Integer}
EXAMPLES = "[1e-3, 1e-2], uniform(0, 0.5), loguniform(1e-4, 1e-1) or integer(16, 256)"


def parse(text: str) -> tuple[str, Range]:
    """('optimizer.learning_rate', LogUniform(...)) of 'optimizer.learning_rate=loguniform(...)'.

    Raises:
      UserError: no such range, an empty one, one that is upside down.
    """
    field, equals, written = text.partition("=")
    field = field.strip().removeprefix("--").removeprefix("config.")
    if not equals or not field or not written.strip():
        raise UserError(f"--search={text!r} expects field=range; a range is {EXAMPLES}")
    try:
        tree = ast.parse(written.strip(), mode="eval").body
    except SyntaxError as error:
        raise UserError(
            f"--search: {field}: {written!r} is no range, which is {EXAMPLES}"
        ) from error
    if isinstance(tree, ast.List):
        values = tuple(_value(field, item) for item in tree.elts)
        if not values:
            raise UserError(f"--search: {field}: the list is empty; name the values to try")
        if len(set(map(repr, values))) < len(values):
            raise UserError(f"--search: {field}: {written.strip()} holds a value twice")
        return field, Choice(values)
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise UserError(f"--search: {field}: {written.strip()!r} is no range, which is {EXAMPLES}")
    kind = tree.func.id
    if kind not in KINDS:
        near = nearest(kind, KINDS)
        raise UserError(f"--search: {field}: there is no range {kind!r}; {near}")
    return field, _bounded(field, kind, [_value(field, item) for item in tree.args])


def grid(space: Mapping[str, Range], points: int) -> list[dict[str, Any]]:
    """Every combination, the last field fastest, with `points` values of each range but a list."""
    axes = [[(field, value) for value in axis.grid(points)] for field, axis in space.items()]
    return [dict(combination) for combination in itertools.product(*axes)]


def sample(space: Mapping[str, Range], trials: int, seed: int) -> list[dict[str, Any]]:
    """`trials` independent points; the first ones are the same for any larger number."""
    points = []
    for index in range(trials):
        rng = np.random.default_rng([seed, index])
        points.append({field: axis.sample(rng) for field, axis in space.items()})
    return points


def check_values(field: str, axis: Range, present: Any) -> None:
    """Raises UserError where the range cannot be meant for a field that holds `present` now."""
    values = axis.values if isinstance(axis, Choice) else (axis.low, axis.high)
    if isinstance(axis, Uniform | LogUniform) and type(present) is int:
        raise UserError(
            f"--search: {field} is a whole number ({present}); use integer({axis.low:g}, "
            f"{axis.high:g}) or a list"
        )
    for value in values:
        numbers = type(present) is float and type(value) in (int, float)
        fits = present is None or type(value) is type(present) or numbers
        if not fits:
            raise UserError(
                f"--search: {field} holds a {type(present).__name__} ({present!r}), and {value!r} "
                f"is a {type(value).__name__}"
            )


def _bounded(field: str, kind: str, bounds: list) -> Range:
    if len(bounds) != 2 or not all(type(bound) in (int, float) for bound in bounds):
        raise UserError(f"--search: {field}: {kind} expects two numbers, as in {EXAMPLES}")
    low, high = bounds
    if not low < high:
        raise UserError(
            f"--search: {field}: {kind}({low}, {high}) is upside down or empty; the lower bound "
            "comes first"
        )
    if kind == "integer" and not (type(low) is int and type(high) is int):
        raise UserError(f"--search: {field}: integer expects whole numbers, got {low}, {high}")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"--search: {field}: loguniform needs bounds above 0, got {low}")
    return KINDS[kind](low, high)


def _value(field: str, node: ast.expr) -> Any:
    """A Python literal, or a bare word as text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Tuple):
        return tuple(_value(field, item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        written = ast.unparse(node)
        raise UserError(
            f"--search: {field}: {written!r} is no value; put text with signs in it in quotes"
        ) from error


def _short(bounds: Uniform | LogUniform, value: float) -> float:
    """Six digits, so that a value reads well in a table and is the same wherever it is typed."""
    return min(max(float(f"{value:.6g}"), float(bounds.low)), float(bounds.high))


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))
