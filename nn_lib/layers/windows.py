"""The arithmetic of windows that convolution and pooling share: extents, strides, padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nn_lib.checks import UserError

Extent = int | Sequence[int]
Padding = str | int | Sequence[tuple[int, int]]

PADDINGS = ("VALID", "SAME", "SAME_SYMMETRIC")


def per_dimension(what: str, value: Extent, spatial: int) -> tuple[int, ...]:
    """One positive whole number for every spatial dimension."""
    values = (value,) * spatial if isinstance(value, int | np.integer) else value
    if (
        not isinstance(values, Sequence)
        or len(values) != spatial
        or not all(isinstance(v, int | np.integer) and v > 0 for v in values)
    ):
        raise UserError(
            f"{what} is a positive number, or one for each of the {spatial} spatial dimensions, "
            f"got {value!r}"
        )
    return tuple(int(v) for v in values)


def explicit_padding(
    who: str,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] | None = None,
) -> tuple[tuple[int, int], ...]:
    """`padding` as a (low, high) pair for every dimension of an input of that size.

    'VALID' is none. 'SAME' gives `ceil(n / s)` outputs, an odd pixel going to the end, as XLA does.
    'SAME_SYMMETRIC' puts `d (k - 1) / 2` on both sides whatever the stride, as torch's networks do.
    """
    spatial = len(size)
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation or (1,) * spatial)]
    if isinstance(padding, int | np.integer):
        padding = [(int(padding), int(padding))] * spatial
    if isinstance(padding, str):
        name = padding.upper()
        if name == "VALID":
            return ((0, 0),) * spatial
        if name == "SAME":
            totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, spans, strides)]
            return tuple((total // 2, total - total // 2) for total in totals)
        if name == "SAME_SYMMETRIC":
            if any(k % 2 == 0 for k in spans):
                raise UserError(
                    f"{who}: no symmetric padding keeps the size under an even window "
                    f"{tuple(window)}; use odd windows, or 'SAME', which puts one pixel more at "
                    "the end"
                )
            return tuple((k // 2, k // 2) for k in spans)
        raise UserError(
            f"{who}: padding {padding!r} is unknown; use {', '.join(PADDINGS)}, a number, or (low, "
            "high) pairs; reflect and circular are padding_mode"
        )
    pairs: Any = padding if isinstance(padding, Sequence) else ()
    if len(pairs) != spatial or not all(
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(n, int | np.integer) and n >= 0 for n in pair)
        for pair in pairs
    ):
        raise UserError(
            f"{who}: padding is one (low, high) pair for each of the {spatial} spatial dimensions, "
            f"got {padding!r}; as in {[(1, 1)] * spatial}"
        )
    return tuple((int(low), int(high)) for low, high in pairs)
