"""`torch.nn.RNN`, `LSTM` and `GRU` against an `RNN`, a `Bidirectional`, or a `Stacked` of them.

Torch's names are `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0` (an LSTM with a
projection also has `weight_hr_l0`) for layer 0, the same with `_reverse` for its backward pass.
Its row blocks are i, f, g, o for the LSTM, where ours are i, f, o, g, and r, z, n for the GRU.

Flax's own cells need no map beyond names. Its `OptimizedLSTMCell` has kernels `ii, if, ig, io` and
`hi, hf, hg, ho` (the biases are with the latter), side by side the columns of our `kernel` and
`recurrent_kernel` in the order i, f, o, g; its `GRUCell` `ir, iz, in` and `hr, hz, hn` (`hn`'s bias
is our `bias_hn`), of `GRUCell(reset_after=True)`; its `SimpleCell` `i` and `h`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError
from nn_lib.recurrent import (
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    Stacked,
    VanillaCell,
    from_equations,
    to_equations,
)

# Torch's row blocks, in our order.
_BLOCKS = {VanillaCell: (0,), LSTMCell: (0, 1, 3, 2), GRUCell: (0, 1, 2)}


def recurrent_from_torch(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`{'params': ...}`; see `nn_lib.interop.from_torch`."""
    passes = list(_passes(model))
    biased = any(name.startswith("bias") for name in arrays) or not arrays
    expected = _expected_shapes(passes, arrays, biased)
    missing = sorted(set(expected) - set(arrays))
    unexpected = sorted(set(arrays) - set(expected))
    misshapen = [
        f"{name} is {list(arrays[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if missing or unexpected or misshapen:
        raise UserError(
            f"from_torch: the state dict does not fit {type(model).__name__}; missing: "
            f"{', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}; "
            f"misshapen: {'; '.join(misshapen) or 'none'}"
        )
    params: dict[str, Any] = {}
    for path, suffix, cell in passes:
        of_pass = {
            name.removesuffix(suffix): array
            for name, array in arrays.items()
            if name.endswith(suffix) and name.removesuffix(suffix) in _NAMES
        }
        place = params
        for key in path:
            place = place.setdefault(key, {})
        place["cell"] = _cell_from_torch(cell, of_pass)
    return {"params": params}


def recurrent_to_torch(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Torch's state dict; see `nn_lib.interop.to_torch`."""
    state_dict: dict[str, np.ndarray] = {}
    for path, suffix, cell in _passes(model):
        params = variables["params"]
        for key in (*path, "cell"):
            params = params[key]
        state_dict |= {name + suffix: array for name, array in _cell_to_torch(cell, params).items()}
    return state_dict


_SAME = ("features", "projection", "activation", "reset_after", "double_bias")
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def _passes(model: nn.Module) -> Iterator[tuple[tuple[str, ...], str, nn.RNNCellBase]]:
    """Every pass over time: its path in our parameters, the end of its names in torch's, its cell.

    In the order of torch's layers.
    """
    stacked = isinstance(model, Stacked)
    layers = model.layers if stacked else (model,)
    if stacked and model.residual:
        raise UserError("torch's recurrent layers have no residual connections; residual=False")
    first = None
    for index, layer in enumerate(layers):
        path = (f"layers_{index}",) if stacked else ()
        if isinstance(layer, Bidirectional):
            pairs = [("forward", layer.forward), ("backward", layer.backward)]
            runs = [((*path, name), run) for name, run in pairs]
        else:
            runs = [(path, layer)]
        for backward, (where, run) in enumerate(runs):
            if not isinstance(run, RNN) or run.reverse != bool(backward):
                raise UserError(
                    "torch's recurrent layers are RNN(cell), Bidirectional(RNN(cell), RNN(cell, "
                    f"reverse=True)) and Stacked of them; layer {index} is another: "
                    f"{type(run).__name__}"
                    + (f"(reverse={run.reverse})" if isinstance(run, RNN) else "")
                )
            _check_cell(run.cell)
            if run.zoneout or run.learned_initial_carry:
                raise UserError(f"layer {index}: torch has neither zoneout nor a learned state")
            kind = (len(runs), *(getattr(run.cell, name, None) for name in _SAME))
            first = (type(run.cell), *kind) if first is None else first
            if (type(run.cell), *kind) != first:
                raise UserError(
                    f"torch's layers are all alike; layer {index} differs from layer 0 in its "
                    "cell, its width or its directions"
                )
            yield where, f"_l{index}" + "_reverse" * backward, run.cell


def _check_cell(cell: nn.RNNCellBase) -> None:
    """Torch has the vanilla cell with tanh or relu, the plain LSTM, the GRU with reset_after."""
    known = type(cell) in _BLOCKS
    if isinstance(cell, VanillaCell):
        known &= cell.activation in (jnp.tanh, nn.tanh, nn.relu)
    elif isinstance(cell, LSTMCell):
        known &= cell.gates == "all" and not (cell.peephole or cell.layer_norm)
    elif isinstance(cell, GRUCell):
        known &= cell.reset_after
    if not known:
        raise UserError(
            "torch has VanillaCell with tanh or relu, LSTMCell without options but projection, and "
            f"GRUCell(reset_after=True); it has not this {type(cell).__name__}"
        )


def _expected_shapes(passes, arrays, biased: bool) -> dict[str, tuple[int, ...]]:
    """Torch's names and shapes; the width of the first layer's inputs is what came."""
    shapes: dict[str, tuple[int, ...]] = {}
    first = arrays.get("weight_ih_l0", np.zeros((0, 0)))
    widths = {"_l0": first.shape[-1] if first.ndim else 0}  # suffix of a layer -> of its inputs
    for _, suffix, cell in passes:
        layer = suffix.removesuffix("_reverse")
        rows = len(_BLOCKS[type(cell)]) * cell.features
        out = cell.projection if _projected(cell) else cell.features
        shapes[f"weight_ih{suffix}"] = (rows, widths[layer])
        shapes[f"weight_hh{suffix}"] = (rows, out)
        if biased:
            shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (rows,)
        if _projected(cell):
            shapes[f"weight_hr{suffix}"] = (out, cell.features)
        above = f"_l{int(layer[2:]) + 1}"
        widths[above] = widths.get(above, 0) + out
    return shapes


def _cell_from_torch(cell: Any, named: dict[str, np.ndarray]) -> dict[str, Any]:
    order = _BLOCKS[type(cell)]

    def blocks(array):
        parts = np.split(array, len(order))
        return [parts[index] for index in order]

    W_x, W_h = blocks(named["weight_ih"]), blocks(named["weight_hh"])
    zeros = np.zeros(len(named["weight_ih"]), named["weight_ih"].dtype)
    b_x, b_h = (blocks(named.get(name, zeros)) for name in ("bias_ih", "bias_hh"))
    if isinstance(cell, VanillaCell):
        return from_equations(cell, W_hh=W_h[0], W_xh=W_x[0], b_h=b_x[0] + b_h[0])["params"]
    if isinstance(cell, LSTMCell):
        W = np.concatenate([np.concatenate(W_h), np.concatenate(W_x)], axis=1)
        extra = {"W_hr": named["weight_hr"]} if cell.projection else {}
        b = np.concatenate(b_x) + np.concatenate(b_h)
        return from_equations(cell, W=W, b=b, **extra)["params"]
    symbols = {"b_r": b_x[0], "b_z": b_x[1], "b_h": b_x[2], "b_hn": b_h[2]}
    if not cell.double_bias:
        symbols |= {"b_r": b_x[0] + b_h[0], "b_z": b_x[1] + b_h[1]}
    for index, block in enumerate("rzh"):
        symbols |= {f"W_x{block}": W_x[index], f"W_h{block}": W_h[index]}
    params = from_equations(cell, **symbols)["params"]
    if cell.double_bias:
        params["bias_rz"] = np.concatenate(b_h[:2])
    return params


def _cell_to_torch(cell: Any, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    order = np.argsort(_BLOCKS[type(cell)])

    def stack(parts):
        return np.concatenate([parts[index] for index in order])

    s = to_equations(cell, {"params": params})
    if isinstance(cell, VanillaCell):
        W_x, W_h, b_x = s["W_xh"], s["W_hh"], s["b_h"]
        b_h = np.zeros_like(b_x)
    elif isinstance(cell, LSTMCell):
        rows = np.split(s["W"], 4)
        out = cell.projection or cell.features
        W_h, W_x = stack([row[:, :out] for row in rows]), stack([row[:, out:] for row in rows])
        b_x = stack(np.split(s["b"], 4))
        b_h = np.zeros_like(b_x)
    else:
        W_x, W_h = (stack([s[f"{name}{block}"] for block in "rzh"]) for name in ("W_x", "W_h"))
        b_x = np.asarray(params["bias"])
        b_h = np.concatenate([np.zeros_like(b_x[: 2 * cell.features]), s["b_hn"]])
        if cell.double_bias:
            b_h[: 2 * cell.features] = params["bias_rz"]
    projection = {"weight_hr": s["W_hr"]} if _projected(cell) else {}
    named = {"weight_ih": W_x, "weight_hh": W_h, "bias_ih": b_x, "bias_hh": b_h}
    return named | projection


def _projected(cell: nn.RNNCellBase) -> bool:
    return isinstance(cell, LSTMCell) and cell.projection > 0
