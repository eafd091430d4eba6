"""What a model holds and takes: parameters, multiply-adds, activations, receptive fields.

Everything is counted from shapes, by tracing the model without allocating or running it.
"""

import collections
import dataclasses
import functools
import math
import re
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nn_lib.analysis.operations import Operation, operations
from nn_lib.checks import UserError, nearest

_SCOPE = re.compile(r"@\[([^\]]*)\]")
_PRODUCTS = ("conv_general_dilated", "dot_general")


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
      path: as in the parameters, 'stage1/block1/conv1'.
      kind: the name of its class.
      shape: of its outputs, the batch included.
      receptive_field, stride: in pixels of the input, the larger of height and width; None where
        there is none, as for recurrent layers.
      activations: output elements, of layers with a convolution or a matrix product.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    activations: int
    receptive_field: int | None
    stride: float | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """The rows of a model and their sums; its `str` is a table.

    Attributes:
      outputs: the shapes of the outputs of every module, of those that only hold others as well.
      activations: elements put out by convolutions, dense and recurrent layers.
      all_activations: by every layer, norms and activation functions that are modules included.
      parameter_bytes, activation_bytes: in the types they have.
    """

    model: str
    rows: tuple[Row, ...]
    outputs: dict[str, tuple[int, ...]]
    parameters: int
    macs: int
    activations: int
    all_activations: int
    parameter_bytes: int
    activation_bytes: int

    def __getitem__(self, path: str) -> Row:
        rows = {row.path: row for row in self.rows}
        if path not in rows:
            raise UserError(f"{self.model} has no row {path!r}; {nearest(path, rows)}")
        return rows[path]

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "multiply-adds", "sees", "stride")
        lines: list[tuple[str, ...]] = [head]
        for row in self.rows:
            numbers = (row.parameters, row.macs)
            sees = (row.receptive_field, row.stride)
            lines.append(
                (
                    row.path or "(model)",
                    row.kind,
                    "x".join(map(str, row.shape)),
                    *(f"{n:,}" if n else "" for n in numbers),
                    *("" if n is None else str(n) for n in sees),
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        ]
        text.append(
            f"{self.model}: {self.parameters:,} parameters ({self.parameter_bytes / 1e6:.1f} MB), "
            f"{self.macs:,} multiply-adds, {self.activations:,} activations "
            f"({self.activation_bytes / 1e6:.1f} MB)"
        )
        return "\n".join(text)


def summarize(model: nn.Module, *inputs: Any, **kwargs: Any) -> Summary:
    """Counts a Flax model for the given inputs, the batch included.

    Multiply-adds are those of convolutions (`window x C_in/groups x outputs`, padding included) and
    matrix products; a recurrent layer's are its matrix products times T. A layer inside a loop
    (as `nn.RNN`'s cell) is counted in the module that loops. Receptive fields follow
    `r += (k - 1) jump; jump *= stride`; the statistics of norms, and gates that have seen the whole
    image, do not enter.

    Args:
      inputs: arrays, or `jax.ShapeDtypeStruct`s; anything else is passed on as it is.
      kwargs: of the model's call, as `train=True`.
    """
    leaves, tree = jax.tree.flatten((inputs, kwargs))
    traced = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x, t in zip(leaves, traced) if t]
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    kinds: dict[str, str] = {}

    def call(apply, arrays):
        arrays = iter(arrays)
        args, options = tree.unflatten(
            [next(arrays) if t else leaf for leaf, t in zip(leaves, traced)]
        )
        return apply(*args, **options)

    variables = jax.eval_shape(lambda *x: call(functools.partial(model.init, keys), x), *shapes)

    def run(variables, *arrays):
        mutable = [name for name in variables if name != "params"]
        apply = functools.partial(model.apply, variables, rngs=keys, mutable=mutable)
        calls: collections.Counter = collections.Counter()
        with nn.intercept_methods(lambda *call: _watch(kinds, calls, *call)):
            return call(apply, arrays)

    first = len(jax.tree.leaves(variables))
    sees = {
        first + i: range(1, len(x.shape) - 1)
        for i, x in enumerate(shapes)
        if len(x.shape) == 4 or (len(x.shape) > 2 and jnp.issubdtype(x.dtype, jnp.floating))
    }
    found = operations(run, variables, *shapes, sees=sees)
    rows, outputs, all_activations, activation_bytes = _rows(
        found, kinds, variables.get("params", {})
    )
    parameters = jax.tree.leaves(variables.get("params", {}))
    return Summary(
        model=type(model).__name__,
        rows=tuple(rows),
        outputs=outputs,
        parameters=sum(math.prod(leaf.shape) for leaf in parameters),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        all_activations=all_activations,
        parameter_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in parameters),
        activation_bytes=activation_bytes,
    )


def _watch(kinds, calls, call, args, kwargs, context):
    """Runs a module's call in a scope of its own and names what it returns.

    The name is the path and the number of the call. Another method counts where it is the first.
    """
    path = "/".join(context.module.path)
    if context.method_name != "__call__" and (path or kinds):
        return call(*args, **kwargs)
    kinds.setdefault(path, type(context.module).__name__)
    with jax.named_scope(f"@[{path}]"):
        result = call(*args, **kwargs)
    calls[path] += 1

    def name(leaf):
        own = f"@[{path}]#{calls[path]}"
        return checkpoint_name(leaf, own) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(name, result)


def _rows(found: list[Operation], kinds: dict[str, str], params):
    """One row for every module that computes or holds something itself, in order of the calls."""
    outputs: dict[str, dict[str, Operation]] = {}  # path -> name of the call -> its largest output
    products: dict[str, list[Operation]] = {}
    for operation in found:
        path = _SCOPE.findall(operation.scope)[-1]
        if operation.kind == "name":
            calls = outputs.setdefault(path, {})
            largest = calls.get(operation.scope, operation)
            calls[operation.scope] = max(largest, operation, key=lambda o: math.prod(o.shape))
        else:
            products.setdefault(path, []).append(operation)
    ends = {path: list(calls.values())[-1] for path, calls in outputs.items()}
    own: dict[str, int] = {}
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        holder = path[:-1]
        while holder and "/".join(holder) not in ends:  # not called, as a cell in a loop
            holder = holder[:-1]
        own["/".join(holder)] = own.get("/".join(holder), 0) + math.prod(leaf.shape)
    rows, all_activations, activation_bytes = [], 0, 0
    for path, kind in kinds.items():
        if path not in ends:
            continue
        leaf = path and not any(other.startswith(f"{path}/") for other in ends)
        if not (leaf or path in own or path in products):
            continue
        here, calls = products.get(path, []), list(outputs[path].values())
        computes = any(operation.kind in _PRODUCTS for operation in here)
        elements = sum(math.prod(call.shape) for call in calls)
        all_activations += elements
        if computes:
            activation_bytes += sum(math.prod(o.shape) * o.dtype.itemsize for o in calls)
        sight = ends[path].sight
        rows.append(
            Row(
                path=path,
                kind=kind,
                shape=ends[path].shape,
                parameters=own.get(path, 0),
                macs=sum(operation.macs for operation in here),
                activations=elements if computes else 0,
                receptive_field=math.ceil(max(sight.field)) if sight else None,
                stride=max(sight.jump) if sight and sight.axes is not None else None,
            )
        )
    shapes = {path: end.shape for path, end in ends.items()}
    return rows, shapes, all_activations, activation_bytes
