"""The one scan over time: running a cell is the forward pass, differentiating it is BPTT.

Outside, sequences are `[B, T, F]`; only this file sees time first.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.checks import UserError, check_rank
from nn_lib.recurrent.cell import Cell


def lengths_to_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """`int[B]` lengths to `bool[B, T]`, true where the step belongs to the sequence."""
    return jnp.arange(max_length) < lengths[:, None]


class RNN(nn.Module):
    """Runs a cell over time.

    `(inputs [B, T, F], mask, reset, initial_carry) -> (carry, outputs [B, T, H])`; output t
    belongs to input t, also when `reverse` runs from the end to the beginning.

    Attributes:
      cell: one of ours, or any Flax `RNNCellBase`.
      reverse: run from the last step to the first.
      learned_initial_carry: the state before the first step is a parameter, not zero.
    """

    cell: nn.RNNCellBase
    reverse: bool = False
    learned_initial_carry: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        initial_carry=None,
        train: bool = False,
    ):
        """Runs the cell.

        Args:
          inputs: `[B, T, F]`.
          mask: `bool[B, T]`, any pattern. A masked step leaves the carry unchanged and outputs
            zero.
          reset: `bool[B, T]`; the state returns to its initial value before that step.
          initial_carry: the state before the first step; None means zero or the learned one.
          train: no difference here; every sequence layer has it.

        Raises:
          UserError: inputs that are not `[B, T, F]`, or a mask or reset that is not `bool[B, T]`.
        """
        check_rank("RNN", inputs, "[B, T, F]")
        _check_flags("mask", mask, inputs)
        _check_flags("reset", reset, inputs)
        fresh = self._fresh_carry(inputs)
        zero_start = reset is None or not self.learned_initial_carry
        carry = fresh if initial_carry is None else initial_carry
        flags = (_time_first(mask), _time_first(reset))

        if not isinstance(self.cell, Cell):

            def foreign(cell, carry, step):
                x, on, again = step
                return _guarded(cell, carry, x, on, again, fresh)

            scan = nn.scan(
                foreign,
                variable_broadcast="params",
                split_rngs={"params": False},
                reverse=self.reverse,
            )
            carry, outputs = scan(self.cell, carry, (_time_first(inputs), *flags))
            return carry, _time_first(outputs)

        w = self.cell.weights(inputs.shape[-1])
        projected = self.cell.project(w, self.cell.cast(_time_first(inputs)))
        carry, fresh = jax.tree.map(lambda leaf: leaf.astype(projected.dtype), (carry, fresh))

        if self.cell.sequence is not None and mask is None and not self.reverse and zero_start:
            keep = jnp.ones((*projected.shape[:2], 1), projected.dtype)
            if reset is not None:
                keep = 1 - _time_first(reset)[..., None].astype(projected.dtype)
            carry, outputs = self.cell.sequence(w, carry, projected, keep)
            return carry, _time_first(outputs)

        def body(carry, step):
            p, on, again = step
            return _guarded(lambda c, x: self.cell.step(w, c, x), carry, p, on, again, fresh)

        carry, outputs = lax.scan(body, carry, (projected, *flags), reverse=self.reverse)
        return carry, _time_first(outputs)

    @nn.nowrap
    def initialize_carry(self, batch_size: int, input_features: int = 1):
        """The zero state for a batch; where it is learned, leave `initial_carry` out instead."""
        return self.cell.initialize_carry(jax.random.key(0), (batch_size, input_features))

    def _fresh_carry(self, inputs):
        batch, _, features = inputs.shape
        if not self.learned_initial_carry:
            return self.initialize_carry(batch, features)
        single = self.cell.initialize_carry(jax.random.key(0), (1, features))
        learned = self.param("initial_carry", lambda key: single)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])), learned)


def _guarded(step, carry, x, on, again, fresh):
    """One step under the flags of its time: `again` resets before it, `not on` undoes it."""
    if again is not None:
        carry = _where(again, fresh, carry)
    after, output = step(carry, x)
    if on is not None:
        after = _where(on, after, carry)
        output = _where(on, output, jnp.zeros_like(output))
    return after, output


def _where(flag, chosen, otherwise):
    """`where` over trees, the flag `[B]` spread over the trailing axes of every leaf."""

    def leaf(a, b):
        return jnp.where(flag.reshape(flag.shape + (1,) * (b.ndim - 1)), a, b)

    return jax.tree.map(leaf, chosen, otherwise)


def _time_first(x):
    return None if x is None else jnp.swapaxes(x, 0, 1)


def _check_flags(name: str, flags: jax.Array | None, inputs: jax.Array) -> None:
    if flags is not None and (flags.shape != inputs.shape[:2] or flags.dtype != bool):
        raise UserError(
            f"RNN expects {name} bool{list(inputs.shape[:2])}, got {flags.dtype}{list(flags.shape)}"
            "; lengths become a mask by lengths_to_mask(lengths, T)"
        )
