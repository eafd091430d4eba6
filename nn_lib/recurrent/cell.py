"""The contract of a recurrent cell: weights once, an input product for all times, a pure step.

A cell is a Flax `RNNCellBase`, so Flax's own `nn.RNN` runs it; our driver (`scan.RNN`) uses the
three parts instead, so that the input product leaves the loop over time.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.layers.precision import summable
from nn_lib.recurrent.arguments import (
    check_carry,
    check_cell,
    check_size,
    width_of_its_parameters,
)


class Cell(nn.RNNCellBase):
    """Base of the cells whose carry is `h [B, features]`.

    Subclasses define `weights`, the only compact method, and the pure functions `project` and
    `step`.

    With a `dtype` of half precision the operands of products and the outputs have it; the carry,
    its cotangents and the gates that weigh it are float32. A state that adds up over many steps
    would lose what is below one rounding of it, and a gate near one would be one, for ever. What
    passes through a product in every step, as all of a vanilla cell's state does, is rounded there.
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    recurrent_kernel_init: Callable = nn.initializers.orthogonal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __call__(self, carry, x: jax.Array):
        """One step: `(carry, x [B, F]) -> (carry, output [B, features])`."""
        check_cell(self)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"{type(self).__name__} expects floating-point inputs, got {x.dtype}")
        fresh = functools.partial(self.initialize_carry, jax.random.key(0), x.shape)
        check_carry(self, carry, jax.eval_shape(fresh))
        with width_of_its_parameters(self, x.shape[-1]):
            w = self.weights(x.shape[-1])
        carry, output = self.step(w, carry, self.project(w, self.cast(x)))
        return summable(carry), output

    def weights(self, input_features: int):
        raise NotImplementedError  # every cell has its own

    @nn.nowrap
    def project(self, w, x: jax.Array) -> jax.Array:
        """The part of a step that does not need the carry; `x` may have any leading axes."""
        return x

    @nn.nowrap
    def step(self, w, carry, projected: jax.Array):
        raise NotImplementedError  # every cell has its own

    @nn.nowrap
    def exposed(self, carry) -> jax.Array:
        """The part of the carry that is the output."""
        return carry

    @nn.nowrap
    def zoneout_rates(self, rate: float, carry) -> tuple[float, ...]:
        """A probability of zoneout spread over the arrays of the carry."""
        return (rate,) * len(jax.tree.leaves(carry))

    @nn.nowrap
    def seen(self, w, h: jax.Array, dtype: Any = None) -> jax.Array:
        """h as the recurrent products see it: in their dtype, under `state_dropout`, if any."""
        h = h if dtype is None else h.astype(dtype)
        return h * w["state_noise"] if "state_noise" in w else h

    @nn.nowrap
    def with_context(self, w, context):
        """The weights with what every step sees beside its input; for cells that attend."""
        raise UserError(f"{type(self).__name__} takes no context; a BahdanauCell or LuongCell does")

    # Whether the output of a step is `exposed(carry)`, so that the driver may change the carry.
    exposes_output = True

    # Optional: `(w, carry, x [T, B, F], again, on) -> (carry, outputs)`, all steps at once with a
    # gradient of its own. `again` and `on` are `bool[T, B, 1]` or None: the state returns to zero
    # before the step; the step counts. `written_out` says whether it is to be used.
    sequence = None

    @property
    def written_out(self) -> bool:
        """Whether `sequence` computes what the steps of this cell do."""
        return self.sequence is not None

    @property
    def has_own_equations(self) -> bool:
        """Whether a subclass changed the equations of a cell but not its `sequence`."""
        order = list(type(self).__mro__)

        def definer(name: str) -> int:
            return next(i for i, kind in enumerate(order) if name in vars(kind))

        return min(definer("step"), definer("project")) < definer("sequence")

    @nn.nowrap
    def initialize_carry(self, rng, input_shape: tuple[int, ...]):
        """h = 0, in the dtype of a state; `rng` is part of Flax's signature, unused."""
        dtype = state_dtype(self.dtype or self.param_dtype)
        return jnp.zeros((*input_shape[:-1], self.features), dtype)

    @property
    def num_feature_axes(self) -> int:
        return 1

    @nn.nowrap
    def affine_weights(
        self,
        input_features: int,
        blocks: int,
        *,
        recurrent_blocks: int | None = None,
        bias_blocks: int | None = None,
        recurrent_features: int | None = None,
        bias_init: Callable | None = None,
    ) -> dict[str, jax.Array]:
        """`kernel [F, blocks H]`, `recurrent_kernel [H, blocks H]`, `bias [blocks H]`.

        Every H x H block of the recurrent kernel is initialised by itself, so that an orthogonal
        initialiser makes each gate's matrix orthogonal.

        Args:
          recurrent_blocks: of the recurrent kernel, where they are not `blocks`.
          bias_blocks: of the bias, likewise.
          recurrent_features: rows of the recurrent kernel, where they are not H.
        """
        h, dtype = self.features, self.param_dtype
        check_size(type(self).__name__, "input features", input_features)
        count = blocks if recurrent_blocks is None else recurrent_blocks
        rows = recurrent_features or h

        def by_block(key, shape, dtype):
            keys = jax.random.split(key, count)
            parts = [self.draw(self.recurrent_kernel_init, k, (rows, h), dtype) for k in keys]
            return jnp.concatenate(parts, axis=1)

        width = h * (blocks if bias_blocks is None else bias_blocks)
        kernel = self.param("kernel", self.kernel_init, (input_features, blocks * h), dtype)
        recurrent = self.param("recurrent_kernel", by_block, (rows, count * h), dtype)
        bias = self.param("bias", bias_init or self.bias_init, (width,), dtype)
        return self.cast({"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})

    @nn.nowrap
    def initial_carry(self, w, x: jax.Array):
        """The zero carry for inputs `x [B, F]` in the dtype that the steps keep it in."""
        dtype = state_dtype(self.dtype or jnp.promote_types(jax.tree.leaves(w)[0].dtype, x.dtype))
        carry = self.initialize_carry(jax.random.key(0), x.shape)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), carry)

    @nn.nowrap
    def draw(self, init: Callable, key, shape: tuple[int, ...], dtype) -> jax.Array:
        """A matrix of an initialiser, which need not know half precision (orthogonal does not)."""
        wide = jnp.promote_types(dtype, jnp.float32)
        return init(key, shape, wide).astype(dtype)

    @nn.nowrap
    def cast(self, tree):
        """Arrays in the dtype of the computation; `dtype=None` leaves them as they are."""
        if self.dtype is None:
            return tree
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype), tree)


def state_dtype(dtype: Any) -> Any:
    """Of the state of a cell that computes in `dtype`: float32 where that is of half precision."""
    return jnp.promote_types(dtype, jnp.float32)
