"""The arithmetic of windows that convolution and pooling share: extents, strides, padding."""

from collections.abc import Sequence

from nn_lib.checks import UserError

Extent = int | Sequence[int]
Padding = str | int | Sequence[tuple[int, int]]

PADDINGS = ("VALID", "SAME", "SAME_SYMMETRIC")


def per_dimension(what: str, value: Extent, spatial: int) -> tuple[int, ...]:
    """One positive number for every spatial dimension."""
    values = (value,) * spatial if isinstance(value, int) else tuple(value)
    if len(values) != spatial or any(v < 1 for v in values):
        raise UserError(
            f"{what} is a positive number, or one for each of the {spatial} spatial dimensions, "
            f"got {value}"
        )
    return values


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
    if isinstance(padding, int):
        padding = [(padding, padding)] * spatial
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
    pairs = tuple(padding)
    if len(pairs) != spatial or not all(
        isinstance(pair, Sequence) and len(pair) == 2 and min(pair) >= 0 for pair in pairs
    ):
        raise UserError(
            f"{who}: padding is one (low, high) pair for each of the {spatial} spatial dimensions, "
            f"got {padding}; as in {[(1, 1)] * spatial}"
        )
    return tuple((low, high) for low, high in pairs)
