"""Truncated back-propagation through time, TBPTT(k1, k2), for anything that carries a state.

After every k1 steps the losses of these k1 steps are differentiated, each through the last k2 steps
at most; the state goes on for ever. Williams & Peng 1990, "An efficient gradient-based algorithm
for on-line training of recurrent network trajectories"; the two numbers are named as in Sutskever's
thesis, 2013.

A sequence model is here a function `(inputs [B, T, ...], carry=, reset=, mask=) -> (outputs [B, T,
...], carry)`, such as `functools.partial(model.apply, variables)`; it runs from left to right, with
an output for every step. Noise that it draws by itself is drawn alike in every call.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nn_lib.checks import UserError


def read_window(apply: Callable, inputs, carry, *, advance: int, reset=None, mask=None):
    """One window of TBPTT(advance, T): its outputs, and the state from which the next one begins.

    The next window begins `advance` steps further on, so that it holds the last `T - advance` steps
    of this one again.

    Args:
      inputs: `[B, T, ...]`.
      carry: the state before the window; the gradient stops here.
      advance: k1, the new steps of every window, 1 to T.

    Returns:
      `(outputs [B, T, ...], the state after `advance` steps, the state after all T)`.
    """
    carry = jax.lax.stop_gradient(carry)
    length = inputs.shape[1]
    if not 1 <= advance <= length:
        raise UserError(
            f"read_window expects advance from 1 to the window's {length}, got {advance}"
        )
    if advance == length:
        outputs, carry = apply(inputs, carry=carry, reset=reset, mask=mask)
        return outputs, carry, carry
    arrays = (inputs, reset, mask)
    (x, again, on), later = (
        jax.tree.map(lambda a, part=part: a[:, part], arrays)
        for part in (slice(advance), slice(advance, None))
    )
    before, following = apply(x, carry=carry, reset=again, mask=on)
    x, again, on = later
    after, last = apply(x, carry=following, reset=again, mask=on)
    return jnp.concatenate([before, after], axis=1), following, last


def truncated_bptt(apply: Callable, inputs, carry, *, k1: int, k2: int, reset=None, mask=None):
    """Whole sequences, whose gradient is that of TBPTT(k1, k2) with the weights held.

    The outputs and the state are those of `apply`. In the gradient of a loss of output t, at the
    end of whose window of k1 steps is step e, no path goes further back than to step e - k2 + 1:
    `k1 = k2 = 1` keeps only what the last step contributes, `k2 >= T` everything.

    Args:
      inputs: `[B, T, ...]`.
      carry: the state before the first step.
      k1: steps from one window to the next.
      k2: steps of a window, at least k1.
      reset: `bool[B, T]` or None.
      mask: `bool[B, T]` or None.

    Returns:
      `(outputs [B, T, ...], carry)`.
    """
    if not 1 <= k1 <= k2:
        raise UserError(f"truncated_bptt expects 1 <= k1 <= k2, got k1={k1} and k2={k2}")
    batch, length = inputs.shape[:2]
    if carry is None:
        raise UserError(
            "truncated_bptt expects the carry before the first step, got None; model."
            "initialize_carry(B) makes it"
        )
    shapes = jax.eval_shape(lambda: apply(inputs, carry=carry, reset=reset, mask=mask))
    if shapes[0].shape[:2] != (batch, length):
        raise UserError(
            f"truncated_bptt expects an output for every step, [{batch}, {length}, ...], got "
            f"{list(shapes[0].shape)}"
        )
    carry = jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), carry, shapes[1])
    windows = -(-length // k1)
    left, right = k2 - k1, windows * k1 - length
    if mask is None and (left or right):
        mask = jnp.ones((batch, length), bool)
    places = jnp.arange(windows)[:, None] * k1 + jnp.arange(k2)

    def cut(array):
        """`[B, T, ...]` to `[windows, B, k2, ...]`; what lies outside of the sequence is masked."""
        widths = [(0, 0), (left, right)] + [(0, 0)] * (array.ndim - 2)
        return jnp.moveaxis(jnp.pad(array, widths)[:, places], 1, 0)

    def one(state, window):
        x, again, on = window
        outputs, following, last = read_window(apply, x, state[0], advance=k1, reset=again, mask=on)
        return (following, last), outputs[:, left:]

    (_, carry), outputs = jax.lax.scan(
        one, (carry, carry), jax.tree.map(cut, (inputs, reset, mask))
    )
    outputs = jnp.moveaxis(outputs, 0, 1)
    return outputs.reshape(batch, windows * k1, *outputs.shape[3:])[:, :length], carry
