"""Walks the operations of a traced function: multiply-adds, and how far each value sees.

Counting rules: a convolution takes `window x C_in/groups x C_out x outputs` multiply-adds, padding
included (a transposed one `inputs x window x C_out/groups`), a matrix product `rows x inner x
columns`; a scan takes its length times its body, a while loop, whose length is unknown, its body
once, a condition the dearest of its branches; everything else (biases, norms, pooling, activations)
nothing. The receptive field grows by `r += (k - 1) jump; jump *= stride` through windows of k; zero
padding does not enter.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from nn_lib.layers.fast_paths import fast_paths

Field = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Sight:
    """How far a value sees, one number per spatial dimension of the input.

    Attributes:
      field: pixels of the input that one entry depends on.
      jump: pixels of the input between neighbouring entries.
      axes: the spatial axes of the array; None once they are flattened into others.
      extent: entries along them.
    """

    field: Field
    jump: Field
    axes: tuple[int, ...] | None
    extent: Field


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution, a matrix product, a pooling, or a value that was named.

    Attributes:
      scope: the scopes and names it stands in; of what a loop repeats, those of the loop.
      kind: of the primitive, as 'conv_general_dilated' or 'name'.
    """

    scope: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    macs: int
    sight: Sight | None


_DECLARED = re.compile(r"macs=(\d+)")
"""A scope in which a layer says what its product takes, as 0 for one that only copies windows."""


def operations(
    function: Callable, *arguments: Any, sees: Mapping[int, Sequence[int]]
) -> list[Operation]:
    """The operations of `function(*arguments)` in order.

    Args:
      arguments: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.
      sees: the flat indices of the arguments that are images or sequences, with their spatial axes.
    """
    with fast_paths(False):  # as the equations say it, not as it is quickest
        closed = jax.make_jaxpr(function)(*arguments)
    walk = _Walk()
    sights: dict[core.Var, Sight | None] = {}
    leaves = jax.tree.leaves(arguments)
    for index, axes in sees.items():
        extent = tuple(leaves[index].shape[a] for a in axes)
        ones = (1,) * len(axes)
        sights[closed.jaxpr.invars[index]] = Sight(ones, ones, tuple(axes), extent)
    walk.through(closed.jaxpr, sights, "", 1)
    return walk.found


class _Walk:
    def __init__(self):
        self.found: list[Operation] = []

    def through(
        self, jaxpr, sights, scope: str, times: int, loop: bool = False
    ) -> list[Sight | None]:
        """Follows every equation; returns the sights of the outputs."""

        def see(atom):
            return None if isinstance(atom, core.Literal) else sights.get(atom)

        for equation in jaxpr.eqns:
            inner_scope = scope if loop else f"{scope}/{equation.source_info.name_stack}"
            ins = [see(atom) for atom in equation.invars]
            inner = list(_inner_jaxprs(equation))
            if inner:
                outs = self._nested(equation, inner, ins, inner_scope, times, loop)
            else:
                outs = [_propagate(equation, ins)] * len(equation.outvars)
                self._count(equation, outs[0], inner_scope, times, loop)
            for variable, sight in zip(equation.outvars, outs):
                sights[variable] = sight
        return [see(atom) for atom in jaxpr.outvars]

    def _nested(self, equation, inner, ins, scope, times, loop):
        name = equation.primitive.name
        loops = name in ("scan", "while")
        length = equation.params.get("length", 1) if name == "scan" else 1
        longest: list[Sight | None] = [None] * len(equation.outvars)
        if name == "cond":  # what the dearest of its branches takes
            inner = [max(inner, key=lambda body: self._cost(body, times))]
        for body in inner:
            sights = {}
            if not loops:
                given = ins[-len(body.invars) :] if body.invars else []
                sights = dict(zip(body.invars, given))
            outs = self.through(body, sights, scope, times * length, loop or loops)
            if not loops and len(outs) == len(longest):
                longest = outs
        return longest

    def _cost(self, body, times: int) -> int:
        walk = _Walk()
        walk.through(body, {}, "", times)
        return sum(operation.macs for operation in walk.found)

    def _count(self, equation, sight, scope, times, loop):
        kind = equation.primitive.name
        shape, macs = equation.outvars[0].aval.shape, 0
        if kind == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel = equation.invars[1].aval.shape
            spatial = math.prod(kernel[i] for i in numbers.rhs_spec[1:])  # inputs and window
            declared = _DECLARED.findall(scope)
            macs = int(declared[-1]) if declared else math.prod(shape) * spatial
            if any(d > 1 for d in equation.params["lhs_dilation"]) and not declared:
                # Transposed: every entry of the input meets the window once, the zeros between not.
                image = equation.invars[0].aval.shape
                groups = equation.params["feature_group_count"]
                outputs = shape[numbers.out_spec[1]] // groups
                macs = math.prod(image) * math.prod(kernel[i] for i in numbers.rhs_spec[2:])
                macs *= outputs
        elif kind == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            macs = math.prod(shape) * math.prod(left[i] for i in contracted)
        elif kind == "name" and not loop:
            scope = equation.params["name"]
        elif not kind.startswith("reduce_window"):
            return
        dtype = equation.outvars[0].aval.dtype
        self.found.append(Operation(scope, kind, shape, dtype, times * macs, sight))


def _inner_jaxprs(equation) -> Iterator[Any]:
    """The jaxprs that an equation calls; of a custom derivative only the function itself."""
    name = equation.primitive.name
    if name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"):
        keys = ("call_jaxpr", "fun_jaxpr")
    elif name.startswith(("reduce_", "scatter", "argm", "sort")) and name != "reduce_precision":
        return  # their jaxprs combine two scalars
    else:
        keys = tuple(equation.params)
    for key in keys:
        value = equation.params.get(key)
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _propagate(equation, ins: list[Sight | None]) -> Sight | None:
    """The sight of an equation's outputs."""
    seen = [sight for sight in ins if sight is not None]
    if not seen:
        return None
    sight = _merge(seen)
    if sight is None:
        return None
    name, params = equation.primitive.name, equation.params
    seeing = [(a.aval.shape, own) for a, own in zip(equation.invars, ins) if own is not None]
    before = next((shape for shape, own in seeing if own.axes == sight.axes), seeing[0][0])
    after = equation.outvars[0].aval.shape
    if name == "conv_general_dilated":
        if ins[0] is None or ins[0].axes is None:
            return None
        numbers = params["dimension_numbers"]
        window = [equation.invars[1].aval.shape[i] for i in numbers.rhs_spec[2:]]
        spans = [d * (k - 1) + 1 for d, k in zip(params["rhs_dilation"], window)]
        if any(d > 1 for d in params["lhs_dilation"]):  # a transposed convolution
            jump = tuple(j / d for j, d in zip(sight.jump, params["lhs_dilation"]))
            sight = dataclasses.replace(
                sight, jump=tuple(int(j) if j % 1 == 0 else j for j in jump)
            )
        return _slide(sight, spans, params["window_strides"], numbers.out_spec[2:], after)
    if name.startswith("reduce_window") and sight.axes is not None:
        spans = [params["window_dimensions"][a] for a in sight.axes]
        strides = [params["window_strides"][a] for a in sight.axes]
        return _slide(sight, spans, strides, sight.axes, after)
    if name in ("reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin"):
        return _drop(sight, params["axes"], len(before))
    if name == "dot_general":
        return _contract(sight, equation, side=0 if ins[0] is not None else 1, both=len(seen) > 1)
    if name == "transpose" and sight.axes is not None:
        order = list(params["permutation"])
        return dataclasses.replace(sight, axes=tuple(order.index(a) for a in sight.axes))
    if name == "reshape":
        return _reshape(sight, before, after)
    if name in ("squeeze", "expand_dims"):
        return _reshape(sight, before, after)
    if name == "broadcast_in_dim" and sight.axes is not None:
        where = params["broadcast_dimensions"]
        axes = tuple(where[a] for a in sight.axes)
        return dataclasses.replace(sight, axes=axes, extent=tuple(after[a] for a in axes))
    if name == "slice" and sight.axes is not None and params["strides"] is not None:
        strides = [params["strides"][a] for a in sight.axes]
        return _slide(sight, [1] * len(strides), strides, sight.axes, after)
    if sight.axes is not None and len(after) == len(before):
        return dataclasses.replace(sight, extent=tuple(after[a] for a in sight.axes))
    return sight if sight.axes is None else None


def _merge(sights: list[Sight]) -> Sight | None:
    """The widest of several values that are combined entry by entry.

    One that has no axes any more, as the statistics of a norm or a gate over all channels, does not
    count beside one that has.
    """
    sights = [sight for sight in sights if sight.axes is not None] or sights
    first = sights[0]
    if any(len(s.field) != len(first.field) or s.axes != first.axes for s in sights):
        return None
    field = tuple(max(column) for column in zip(*(s.field for s in sights)))
    jump = tuple(max(column) for column in zip(*(s.jump for s in sights)))
    return dataclasses.replace(first, field=field, jump=jump)


def _slide(sight: Sight, spans, strides, axes, shape) -> Sight:
    field = tuple(r + (k - 1) * j for r, k, j in zip(sight.field, spans, sight.jump))
    jump = tuple(j * s for j, s in zip(sight.jump, strides))
    return Sight(field, jump, tuple(axes), tuple(shape[a] for a in axes))


def _whole(sight: Sight) -> Sight:
    """A value that sees every entry of the maps."""
    field = tuple(r + (n - 1) * j for r, n, j in zip(sight.field, sight.extent, sight.jump))
    return Sight(field, sight.jump, None, (1,) * len(field))


def _drop(sight: Sight, axes, rank: int) -> Sight:
    """Reduces over axes of an array of that rank."""
    if sight.axes is None:
        return sight
    if set(axes) & set(sight.axes):
        return _whole(sight)
    kept = [a for a in range(rank) if a not in axes]
    return dataclasses.replace(sight, axes=tuple(kept.index(a) for a in sight.axes))


def _contract(sight: Sight, equation, *, side: int, both: bool) -> Sight | None:
    """A matrix product with weights: batch axes come first, then what is left of either side."""
    if both:
        return None  # a product of two values, as in attention
    contracted, batch = (pair[side] for pair in equation.params["dimension_numbers"])
    if sight.axes is None or set(contracted) & set(sight.axes):
        return _whole(sight)
    ranks = [len(atom.aval.shape) for atom in equation.invars]
    kept = [a for a in range(ranks[side]) if a not in (*contracted, *batch)]
    others = ranks[0] - len(contracted) - len(batch) if side else 0
    places = {a: i for i, a in enumerate(batch)}
    places |= {a: len(batch) + others + i for i, a in enumerate(kept)}
    return dataclasses.replace(sight, axes=tuple(places[a] for a in sight.axes))


def _reshape(sight: Sight, before, after) -> Sight:
    """Axes that keep their place among the products of sizes stay; else the maps are flattened."""
    if sight.axes is None:
        return sight
    left = [int(np.prod(before[:a])) for a in sight.axes]
    axes = []
    for product, extent in zip(left, sight.extent):
        places = [
            i for i, n in enumerate(after) if n == extent and int(np.prod(after[:i])) == product
        ]
        if not places:
            return dataclasses.replace(sight, axes=None)
        axes.append(places[-1] if extent == 1 else places[0])
    if len(set(axes)) < len(axes):
        return dataclasses.replace(sight, axes=None)
    return dataclasses.replace(sight, axes=tuple(axes))
