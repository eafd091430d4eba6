"""What a model holds and takes: parameters, multiply-adds, activations, receptive fields.

Everything is counted from shapes, by tracing the model without allocating or running it.
"""

import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nn_lib.analysis.operations import Operation, operations

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
    stride: int | None


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
        return next(row for row in self.rows if row.path == path)

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
    `r += (k - 1) jump; jump *= stride`.

    Args:
      inputs: arrays, or `jax.ShapeDtypeStruct`s.
      kwargs: of the model's call, as `train=True`.
    """
    shapes = [jax.eval_shape(lambda x: x, array) for array in inputs]
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda *x: model.init(keys, *x, **kwargs), *shapes)
    kinds: dict[str, str] = {}

    def run(variables, *arrays):
        with nn.intercept_methods(lambda *call: _watch(kinds, *call)):
            return model.apply(
                variables,
                *arrays,
                rngs={"dropout": jax.random.key(1)},
                mutable=[name for name in variables if name != "params"],
                **kwargs,
            )

    first = len(jax.tree.leaves(variables))
    sees = {
        first + i: range(1, len(x.shape) - 1)
        for i, x in enumerate(jax.tree.leaves(shapes))
        if len(x.shape) > 2 and jnp.issubdtype(x.dtype, jnp.floating)
    }
    found = operations(run, variables, *shapes, sees=sees)
    rows, outputs, all_activations = _rows(found, kinds, variables.get("params", {}))
    parameters = jax.tree.leaves(variables.get("params", {}))
    itemsize = {row.path: _itemsize(found, row.path) for row in rows}
    return Summary(
        model=type(model).__name__,
        rows=tuple(rows),
        outputs=outputs,
        parameters=sum(math.prod(leaf.shape) for leaf in parameters),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        all_activations=all_activations,
        parameter_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in parameters),
        activation_bytes=sum(row.activations * itemsize[row.path] for row in rows),
    )


def _watch(kinds, call, args, kwargs, context):
    """Runs a module's call in a scope of its own and names what it returns."""
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    path = "/".join(context.module.path)
    kinds.setdefault(path, type(context.module).__name__)
    with jax.named_scope(f"@[{path}]"):
        result = call(*args, **kwargs)

    def name(leaf):
        return checkpoint_name(leaf, f"@[{path}]") if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(name, result)


def _rows(found: list[Operation], kinds: dict[str, str], params):
    """One row for every module that computes or holds something itself, in order of the calls."""
    outputs: dict[str, list[Operation]] = {}
    products: dict[str, list[Operation]] = {}
    for operation in found:
        path = _SCOPE.findall(operation.scope)[-1]
        where = outputs if operation.kind == "name" else products
        where.setdefault(path, []).append(operation)
    shapes = {path: max((o.shape for o in ops), key=math.prod) for path, ops in outputs.items()}
    own: dict[str, int] = {}
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        holder = path[:-1]
        while "/".join(holder) not in shapes:  # a module that is not called, as a cell in a loop
            holder = holder[:-1]
        own["/".join(holder)] = own.get("/".join(holder), 0) + math.prod(leaf.shape)
    rows = []
    for path, kind in kinds.items():
        if path not in shapes:
            continue
        leaf = not any(other.startswith(f"{path}/") for other in shapes) and path
        if not (leaf or path in own or path in products):
            continue
        here = products.get(path, [])
        computes = any(operation.kind in _PRODUCTS for operation in here)
        calls = [o for o in outputs[path] if o.shape == shapes[path]]
        sight = calls[-1].sight
        rows.append(
            Row(
                path=path,
                kind=kind,
                shape=shapes[path],
                parameters=own.get(path, 0),
                macs=sum(operation.macs for operation in here),
                activations=sum(math.prod(o.shape) for o in calls) if computes else 0,
                receptive_field=max(sight.field) if sight else None,
                stride=max(sight.jump) if sight and sight.axes is not None else None,
            )
        )
    return rows, shapes, sum(math.prod(row.shape) for row in rows)


def _itemsize(found: list[Operation], path: str) -> int:
    return next(o.dtype.itemsize for o in found if o.scope == f"@[{path}]" and o.kind == "name")
