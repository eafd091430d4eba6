"""What the drivers accept: masks from lengths, and one-line errors for the rest."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    expected, came = (jax.tree.map(jnp.shape, tree) for tree in (fresh, carry))
    if expected != came:
        raise UserError(
            f"RNN expects an initial_carry of {type(cell).__name__} with shapes {expected}, got "
            f"{came}; is it that of another cell or batch?"
        )
