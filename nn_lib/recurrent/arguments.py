"""What cells and drivers accept: masks from lengths, and one-line errors for the rest."""

import contextlib
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from nn_lib.checks import UserError, check_rank


def lengths_to_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """`int[B]` lengths to `bool[B, T]`, true where the step belongs to the sequence."""
    return jnp.arange(max_length) < jnp.asarray(lengths)[:, None]


def check_flags(name: str, flags, inputs: jax.Array) -> jax.Array | None:
    """The mask or the resets as an array `bool[B, T]`; None stays None."""
    if flags is None:
        return None
    flags = flags if hasattr(flags, "dtype") else jnp.asarray(flags)
    if flags.shape != inputs.shape[:2] or flags.dtype != bool:
        raise UserError(
            f"RNN expects {name} bool{list(inputs.shape[:2])}, got {flags.dtype}{list(flags.shape)}"
            "; lengths become a mask by lengths_to_mask(lengths, T)"
        )
    return flags


def check_cell(cell) -> None:
    """Raises UserError for what is no cell, a class or a whole layer for example."""
    if not isinstance(cell, nn.RNNCellBase):
        came = f"the class {cell.__name__}" if isinstance(cell, type) else type(cell).__name__
        raise UserError(f"RNN expects a cell, as in RNN(LSTMCell(64)), got {came}")
    check_size(type(cell).__name__, "features", getattr(cell, "features", 1))


def check_size(who: str, name: str, size) -> None:
    if not isinstance(size, int | np.integer) or size < 1:
        raise UserError(f"{who} expects {name}, a whole number of at least 1, got {size!r}")


def check_inputs(inputs: jax.Array) -> None:
    check_rank("RNN", inputs, "[B, T, F]")
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise UserError(
            f"RNN expects floating-point inputs [B, T, F], got {inputs.dtype}{list(inputs.shape)}; "
            "embed tokens or one-hot them first"
        )
    if not inputs.shape[1]:
        raise UserError(
            f"RNN expects inputs [B, T, F] with T of at least 1, got {list(inputs.shape)}; drop "
            "empty sequences, or pad them and mask every step"
        )


def check_carry(cell: nn.RNNCellBase, carry, fresh) -> None:
    expected, came = (
        jax.tree.map(lambda leaf: leaf.shape if hasattr(leaf, "shape") else (), tree)
        for tree in (fresh, carry)
    )
    if isinstance(expected, tuple) and isinstance(carry, list):
        raise UserError(
            f"RNN expects an initial_carry of {type(cell).__name__} as a tuple of "
            f"{len(fresh)} arrays, got a list; tuple(carry) makes one"
        )
    if expected != came:
        raise UserError(
            f"RNN expects an initial_carry of {type(cell).__name__} with shapes {expected}, got "
            f"{came}; is it that of another cell or batch?"
        )


@contextlib.contextmanager
def width_of_its_parameters(cell: nn.RNNCellBase, features: int) -> Iterator[None]:
    """Turns Flax's error about the shape of a parameter into one about the width of the inputs."""
    try:
        yield
    except ScopeParamShapeError as error:
        kernel = cell.variables.get("params", {}).get("kernel")
        made = "" if kernel is None else f", F = {kernel.shape[0]}"
        raise UserError(
            f"{type(cell).__name__} expects inputs as wide as those that its parameters were made "
            f"for{made}, got F = {features}; use the inputs of init, or init anew"
        ) from error
