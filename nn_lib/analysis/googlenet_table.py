"""Table 1 of the GoogLeNet paper, as the lecture prints it, beside what the network really has.

Its "params" are weights without biases in units of 1024, its "ops" millions of multiply-adds.
"""

import jax
import jax.numpy as jnp

from nn_lib.analysis.summary import Summary, summarize
from nn_lib.models import GoogLeNet

# row: (printed parameters in 1024, printed multiply-adds in millions)
PRINTED = {
    "conv1": (2.7, 34),
    "conv2": (112, 360),
    "inception3a": (159, 128),
    "inception3b": (380, 304),
    "inception4a": (364, 73),
    "inception4b": (437, 88),
    "inception4c": (463, 100),
    "inception4d": (580, 119),
    "inception4e": (840, 170),
    "inception5a": (1072, 54),
    "inception5b": (1388, 71),
    "linear": (1000, 1),
}


def computed() -> dict[str, tuple[int, int, int]]:
    """Row to (weights, weights and biases, multiply-adds) of one 224x224 image."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    summary = summarize(GoogLeNet(), image)
    rows = {}
    for name in PRINTED:
        layers = [row for row in summary.rows if _block(row.path) == name]
        biases = sum(row.shape[-1] for row in layers if row.parameters)
        both = sum(row.parameters for row in layers)
        rows[name] = both - biases, both, sum(row.macs for row in layers)
    return rows


def as_text() -> str:
    """The table, printed numbers that are off by more than rounding marked with their error."""
    lines = [
        f"{'row':<12}{'weights':>12}{'/1024':>10}{'printed':>10}  {'':<8}"
        f"{'multiply-adds':>15}{'printed':>9}"
    ]
    for name, (weights, _, macs) in computed().items():
        k, m = PRINTED[name]
        lines.append(
            f"{name:<12}{weights:>12,}{weights / 1024:>10.2f}{k:>10}  {_mark(weights / 1024, k):<8}"
            f"{macs:>15,}{m:>8}M  {_mark(macs / 1e6, m)}".rstrip()
        )
    weights, both, macs = (sum(column) for column in zip(*computed().values()))
    lines.append(
        f"{'sum':<12}{weights:>12,}{weights / 1024:>10.1f}{'6797.7':>10}  {'**':<8}{macs:>15,}"
        f"{'1502':>8}M  **"
    )
    lines.append(f"{both:,} parameters with biases; * off by less than two, ** wrong")
    return "\n".join(lines)


def _mark(exact: float, printed: float) -> str:
    """'' where printed is exact rounded or cut off, '*' within two, else '**'."""
    if abs(printed - exact) < 1 and printed in (int(exact), round(exact)):
        return ""
    return "*" if abs(printed - exact) < 2 else "**"


def _block(path: str) -> str:
    top = path.split("/")[0]
    return "conv2" if top == "conv2_reduce" else top


__all__ = ["PRINTED", "Summary", "as_text", "computed"]
