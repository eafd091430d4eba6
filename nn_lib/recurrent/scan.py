"""The one scan over time: running a cell is the forward pass, differentiating it is BPTT.

Outside, sequences are `[B, T, F]`; only this file sees time first.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.checks import UserError
from nn_lib.layers.precision import like, summable
from nn_lib.recurrent import noise
from nn_lib.recurrent.arguments import (
    check_carry,
    check_cell,
    check_flags,
    check_inputs,
    width_of_its_parameters,
)
from nn_lib.recurrent.cell import Cell, state_dtype


class RNN(nn.Module):
    """Runs a cell over time.

    `(inputs [B, T, F], mask, reset, initial_carry) -> (carry, outputs [B, T, H])`; output t
    belongs to input t, also when `reverse` runs from the end to the beginning. The outputs
    of our cells have their `dtype`; their carry is float32 where that is of half precision.

    Attributes:
      cell: one of ours, or any Flax `RNNCellBase`.
      reverse: run from the last step to the first.
      learned_initial_carry: the state before the first step is a parameter, not zero.
      chunk: differentiate in chunks of so many steps: only the states at their borders are kept,
        what lies between is computed again in the backward pass. Memory for about one more forward
        pass; 0 keeps everything.
      custom_gradient: use a cell's written-out gradient where it has one. Forward-mode
        differentiation (`jax.jvp`, `jax.jacfwd`) needs False: the generic scan has both modes.
      input_dropout: probability of dropping an input feature from a whole sequence, in training.
      state_dropout: likewise a unit of h, in the recurrent products alone.
      output_dropout: likewise a unit of the outputs.
      zoneout: probability that a unit keeps its old value in a step; a tuple has one for every
        array of the carry, an LSTM's `(c, h)` for example. In evaluation their mean is taken.

    The three dropouts are variational (Gal & Ghahramani 2016, "A theoretically grounded application
    of dropout in recurrent neural networks"): one draw serves all steps. Noise is of the stream
    `dropout`.

    An analysis may add to the states: a collection `perturbations` with `carry`, the tree of the
    carry with leaves `[B, T, ...]`, is added to the state after every step.
    """

    cell: nn.RNNCellBase
    reverse: bool = False
    learned_initial_carry: bool = False
    chunk: int = 0
    custom_gradient: bool = True
    input_dropout: float = 0.0
    state_dropout: float = 0.0
    output_dropout: float = 0.0
    zoneout: float | tuple[float, ...] = 0.0

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        initial_carry=None,
        context=None,
        train: bool = False,
    ):
        """Runs the cell.

        Args:
          inputs: `[B, T, F]`.
          mask: `bool[B, T]`, any pattern. A masked step leaves the carry unchanged and outputs
            zero.
          reset: `bool[B, T]`; the state returns to its initial value before that step.
          initial_carry: the state before the first step; None means zero or the learned one.
          context: what every step of a cell with `with_context` sees beside its input, such as the
            memory that a `BahdanauCell` attends to.
          train: whether there is noise.

        Raises:
          UserError: inputs that are not floating-point `[B, T, F]` with a step at least, a mask or
            reset that is not `bool[B, T]`, a carry that is not the cell's, a rate that is not a
            probability, an option that needs one of our cells.
        """
        for name in ("input_dropout", "state_dropout", "output_dropout"):
            noise.check_rate(name, getattr(self, name))
        check_cell(self.cell)
        if not isinstance(self.chunk, int) or self.chunk < 0:
            raise UserError(f"RNN expects chunk, steps, or 0 for none, got {self.chunk}")
        inputs = inputs if hasattr(inputs, "dtype") else jnp.asarray(inputs)
        check_inputs(inputs)
        mask, reset = check_flags("mask", mask, inputs), check_flags("reset", reset, inputs)
        fresh = self._fresh_carry(inputs)
        carry = fresh if initial_carry is None else initial_carry
        check_carry(self.cell, carry, fresh)
        x, on, again = jax.tree.map(self._in_order_of_running, (inputs, mask, reset))
        if on is not None:
            x = jnp.where(on[..., None], x, 0)  # padding may be anything, even NaN
        x = self._dropped(x, self.input_dropout, train)
        if isinstance(self.cell, Cell):
            carry, outputs = self._run_own(carry, x, on, again, fresh, context, train)
        else:
            carry, outputs = self._run_foreign(carry, (x, on, again), fresh)
        outputs = self._dropped(outputs, self.output_dropout, train)
        if self.reverse:
            outputs = jnp.flip(outputs, 0)
        return carry, jnp.swapaxes(outputs, 0, 1)

    def _run_own(self, carry, x, on, again, fresh, context, train: bool):
        """Weights once; then project and run, the whole sequence or chunk by chunk."""
        cell: Any = self.cell
        with width_of_its_parameters(cell, x.shape[-1]):
            w = cell.weights(x.shape[-1])
        if context is not None:
            w = cell.with_context(w, context)
        dtype = cell.dtype or jnp.promote_types(jax.tree.leaves(w)[0].dtype, x.dtype)
        kept = state_dtype(dtype)
        carry, fresh = jax.tree.map(lambda leaf: leaf.astype(kept), (carry, fresh))
        rates = noise.zoneout_rates(self.zoneout, cell, carry)
        zone = shift = None
        if train and self.state_dropout:
            shape = cell.exposed(carry).shape
            drawn = noise.dropout(self.make_rng("dropout"), self.state_dropout, shape, dtype)
            w = {**w, "state_noise": drawn}
        if train and any(rates):
            zone = noise.zones(self.make_rng("dropout"), rates, carry, len(x))
        if self.has_variable("perturbations", "carry"):
            shift = self.get_variable("perturbations", "carry")
            shift = jax.tree.map(self._in_order_of_running, shift)
        adjusted = any(rates) or shift is not None
        if adjusted and not cell.exposes_output:
            raise UserError(
                f"RNN expects no zoneout and no perturbations for a {type(cell).__name__}, whose "
                "output is more than its state"
            )
        custom = (
            self.custom_gradient
            and cell.written_out
            and not cell.has_own_equations
            and not (adjusted or (train and self.state_dropout))
            and (again is None or not self.learned_initial_carry)
        )

        kinds = w, fresh
        w, fresh = summable(kinds)

        def step(w, carry, now):
            projected, zone, shift = now
            after, output = cell.step(w, carry, projected)
            after, output = like(after, carry), output.astype(dtype)
            if not adjusted:
                return after, output
            if any(rates):
                after = noise.zone_out(carry, after, rates, zone)
            if shift is not None:
                after = jax.tree.map(jnp.add, after, shift)
            return after, cell.exposed(after).astype(dtype)

        def run(w, carry, steps, fresh):
            x, on, again, zone, shift = steps
            if custom:
                one = jax.tree.map(lambda leaf: leaf.astype(dtype), (w, x))
                return cell.sequence(one[0], carry, one[1], _column(again), _column(on))
            projected = cell.project(like(w, kinds[0]), cell.cast(x))

            def body(carry, now):
                here, start = like((w, fresh), kinds)
                return _guarded(functools.partial(step, here), carry, *now, start)

            return lax.scan(body, carry, ((projected, zone, shift), on, again))

        steps = (x, on, again, zone, shift)
        length = len(x)
        if not 0 < self.chunk < length:
            return run(w, carry, steps, fresh)
        again_in_backward = jax.checkpoint(run)
        whole = length - length % self.chunk
        cut = jax.tree.map(
            lambda leaf: leaf[:whole].reshape(-1, self.chunk, *leaf.shape[1:]), steps
        )
        carry, outputs = lax.scan(
            lambda carry, part: again_in_backward(w, carry, part, fresh), carry, cut
        )
        outputs = outputs.reshape(whole, *outputs.shape[2:])
        if whole < length:
            rest = jax.tree.map(lambda leaf: leaf[whole:], steps)
            carry, last = again_in_backward(w, carry, rest, fresh)
            outputs = jnp.concatenate([outputs, last])
        return carry, outputs

    def _run_foreign(self, carry, steps, fresh):
        """A Flax cell, whose `__call__` is all that is known of it."""
        for name in ("chunk", "state_dropout", "zoneout"):
            if getattr(self, name):
                raise UserError(
                    f"RNN expects {name}=0 for a {type(self.cell).__name__}, got "
                    f"{getattr(self, name)}; it needs one of nn_lib's cells"
                )
        if self.has_variable("perturbations", "carry"):
            raise UserError(f"the states of a {type(self.cell).__name__} cannot be perturbed")

        def one(cell, carry, now):
            return _guarded(cell, carry, *now, fresh)

        scan = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
        with width_of_its_parameters(self.cell, steps[0].shape[-1]):
            return scan(self.cell, carry, steps)

    def _dropped(self, x: jax.Array, rate: float, train: bool) -> jax.Array:
        """`[T, B, F]` with features dropped from all steps of a sequence alike."""
        if not (train and rate):
            return x
        return x * noise.dropout(self.make_rng("dropout"), rate, x.shape[1:], x.dtype)

    @nn.nowrap
    def _in_order_of_running(self, x: jax.Array) -> jax.Array:
        """`[B, T, ...]` to `[T, B, ...]`, the step that runs first at the beginning."""
        x = jnp.swapaxes(x, 0, 1)
        return jnp.flip(x, 0) if self.reverse else x

    @nn.nowrap
    def initialize_carry(self, batch_size: int, input_features: int = 1):
        """The zero state for a batch; where it is learned, leave `initial_carry` out instead."""
        return self.cell.initialize_carry(jax.random.key(0), (batch_size, input_features))

    def _fresh_carry(self, inputs):
        batch, _, features = inputs.shape
        if not self.learned_initial_carry:
            return self.initialize_carry(batch, features)
        zero = self.cell.initialize_carry(jax.random.key(0), (1, features))
        kept = getattr(self.cell, "param_dtype", None)
        single = jax.tree.map(lambda leaf: leaf.astype(kept or leaf.dtype), zero)
        learned = self.param("initial_carry", lambda key: single)

        def spread(leaf, zero):
            return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])).astype(zero.dtype)

        return jax.tree.map(spread, learned, zero)


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


def _column(flags):
    """`[T, B]` to `[T, B, 1]`, to go with states `[B, H]`."""
    return None if flags is None else flags[..., None]
