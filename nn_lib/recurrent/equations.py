"""A cell's weights in the symbols of its equations: matrices that act on column vectors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nn_lib.checks import UserError
from nn_lib.recurrent.cell import Cell
from nn_lib.recurrent.conditioned import ConditionedVanillaCell
from nn_lib.recurrent.gru import GRUCell
from nn_lib.recurrent.highway import RecurrentHighwayCell
from nn_lib.recurrent.lstm import LSTMCell
from nn_lib.recurrent.lstm_variants import GATES
from nn_lib.recurrent.mut import MUT1Cell, MUT2Cell, MUT3Cell
from nn_lib.recurrent.nas import NASCell
from nn_lib.recurrent.vanilla import VanillaCell

# Cell -> blocks of the kernel, of the recurrent kernel, of the bias, in their order.
_BLOCKS = {
    VanillaCell: ("h", "h", "h"),
    ConditionedVanillaCell: ("h", "h", "h"),
    GRUCell: ("rzh", "rzh", "rzh"),
    MUT1Cell: ("rz", "rh", "rzh"),
    MUT2Cell: ("zh", "rzh", "rzh"),
    MUT3Cell: ("rzh", "rzh", "rzh"),
}


# Symbols of the LSTM's options -> parameters.
_LSTM_EXTRA = {
    **{f"p_{gate}": f"peephole_{gate}" for gate in "ifo"},
    **{"g_x": "scale_x", "g_h": "scale_h", "g_c": "scale_c", "b_c": "bias_c"},
}


def from_equations(cell: Cell, **symbols) -> dict[str, Any]:
    """`{'params': ...}` of a cell from arrays named as in its docstring, their dtype kept.

    - Vanilla: `W_hh, W_xh, b_h`; conditioned also `W_ih`.
    - GRU and MUT: those of `W_xr, W_hr, b_r, W_xz, W_hz, b_z, W_xh, W_hh, b_h` that the equations
      have, `b_hn` with `reset_after`.
    - LSTM: `W [4H, H + F]` (rows i, f, o, g, columns h then x) and `b`; its options
      `p_i, p_f, p_o`, `W_hr [P, H]`, the layer norm's gains and bias `g_x, g_h, g_c, b_c`.
    - Recurrent highway: `W_H, W_T [H, F]`, `R_H, R_T [depth, H, H]`, `b_H, b_T [depth, H]`.
    - NAS, in row vectors: `W_x, W_m, b`.

    Raises:
      UserError: symbols that are missing or that the equations have not.
    """
    names = _symbols(cell)
    if set(symbols) != set(names):
        missing, strange = sorted(set(names) - set(symbols)), sorted(set(symbols) - set(names))
        raise UserError(
            f"{type(cell).__name__} expects the symbols {', '.join(names)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(strange) or 'none'}"
        )
    s = {name: np.asarray(value) for name, value in symbols.items()}
    if isinstance(cell, LSTMCell):
        h = cell.projection or cell.features
        kernels = {"recurrent_kernel": s["W"][:, :h].T, "kernel": s["W"][:, h:].T}
        extra = {_LSTM_EXTRA[name]: s[name] for name in names if name in _LSTM_EXTRA}
        if cell.projection:
            extra["projection_kernel"] = s["W_hr"].T
        return {"params": {**kernels, "bias": s["b"], **extra}}
    if isinstance(cell, NASCell):
        return {"params": {"kernel": s["W_x"], "recurrent_kernel": s["W_m"], "bias": s["b"]}}
    if isinstance(cell, RecurrentHighwayCell):
        params = {
            "kernel": np.concatenate([s["W_H"], s["W_T"]]).T,
            "recurrent_kernel": np.concatenate([s["R_H"], s["R_T"]], axis=1).transpose(0, 2, 1),
            "bias": np.concatenate([s["b_H"], s["b_T"]], axis=1),
        }
        return {"params": params}
    kernel, recurrent, bias = _blocks(cell)
    params = {
        "kernel": np.concatenate([s[f"W_x{block}"] for block in kernel]).T,
        "recurrent_kernel": np.concatenate([s[f"W_h{block}"] for block in recurrent]).T,
        "bias": np.concatenate([s[f"b_{block}"] for block in bias]),
    }
    if "b_hn" in s:
        params["bias_hn"] = s["b_hn"]
        if cell.double_bias:
            params["bias_rz"] = np.zeros_like(params["bias"][: 2 * cell.features])
    if "W_ih" in s:
        params["condition_kernel"] = s["W_ih"].T
    return {"params": params}


def to_equations(cell: Cell, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The symbols that `from_equations` takes; of a GRU's doubled bias the sum."""
    p = {name: np.asarray(leaf) for name, leaf in variables["params"].items()}
    if isinstance(cell, LSTMCell):
        both = np.concatenate([p["recurrent_kernel"], p["kernel"]])
        extra = {name: p[param] for name, param in _LSTM_EXTRA.items() if param in p}
        if cell.projection:
            extra["W_hr"] = p["projection_kernel"].T
        return {"W": both.T, "b": p["bias"], **extra}
    if isinstance(cell, NASCell):
        return {"W_x": p["kernel"], "W_m": p["recurrent_kernel"], "b": p["bias"]}
    if isinstance(cell, RecurrentHighwayCell):
        W_H, W_T = np.split(p["kernel"].T, 2)
        R_H, R_T = np.split(p["recurrent_kernel"].transpose(0, 2, 1), 2, axis=1)
        b_H, b_T = np.split(p["bias"], 2, axis=1)
        return {"W_H": W_H, "W_T": W_T, "R_H": R_H, "R_T": R_T, "b_H": b_H, "b_T": b_T}
    kernel, recurrent, bias = _blocks(cell)
    b = p["bias"]
    if "bias_rz" in p:
        b = b + np.pad(p["bias_rz"], (0, cell.features))
    found: dict[str, np.ndarray] = {}
    for prefix, blocks, array in (
        ("W_x", kernel, p["kernel"].T),
        ("W_h", recurrent, p["recurrent_kernel"].T),
        ("b_", bias, b),
    ):
        parts = np.split(array, len(blocks))
        found |= {prefix + block: part for block, part in zip(blocks, parts)}
    if "bias_hn" in p:
        found["b_hn"] = p["bias_hn"]
    if "condition_kernel" in p:
        found["W_ih"] = p["condition_kernel"].T
    return found


def _blocks(cell: Cell) -> tuple[str, str, str]:
    kind = next((kind for kind in type(cell).__mro__ if kind in _BLOCKS), None)
    if kind is None:
        known = ", ".join(sorted(kind.__name__ for kind in (*_BLOCKS, LSTMCell, NASCell)))
        raise UserError(f"{type(cell).__name__} has no equations here; there are {known}")
    return _BLOCKS[kind]


def _symbols(cell: Cell) -> list[str]:
    if isinstance(cell, LSTMCell):
        names = ["W", "b"]
        if cell.peephole:
            names += [f"p_{gate}" for gate in GATES[cell.gates] if gate != "g"]
        if cell.projection:
            names.append("W_hr")
        return names + (["g_x", "g_h", "g_c", "b_c"] if cell.layer_norm else [])
    if isinstance(cell, NASCell):
        return ["W_x", "W_m", "b"]
    if isinstance(cell, RecurrentHighwayCell):
        return ["W_H", "W_T", "R_H", "R_T", "b_H", "b_T"]
    kernel, recurrent, bias = _blocks(cell)
    names = [f"W_x{b}" for b in kernel] + [f"W_h{b}" for b in recurrent] + [f"b_{b}" for b in bias]
    if isinstance(cell, GRUCell) and cell.reset_after:
        names.append("b_hn")
    return [*names, "W_ih"] if isinstance(cell, ConditionedVanillaCell) else names
