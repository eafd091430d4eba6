"""Sequence layers made of sequence layers: several in a row, or one in each direction."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError


class Stacked(nn.Module):
    """Layers in a row, each reading the outputs of the one below; the carry is their tuple.

    Attributes:
      layers: `RNN`s, `Bidirectional`s, or anything with their signature.
      dropout: probability of dropping an activation between two layers.
      residual: add its input to the output of every layer whose two widths agree.
    """

    layers: Sequence[nn.Module]
    dropout: float = 0.0
    residual: bool = False

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
        """`(inputs [B, T, F]) -> (carries, outputs [B, T, H])`, as `RNN`."""
        carries = []
        _check_layers("Stacked", self.layers)
        initial = _parts("Stacked", initial_carry, len(self.layers))
        outputs = inputs
        for index, (layer, carry) in enumerate(zip(self.layers, initial)):
            if index:
                outputs = nn.Dropout(self.dropout, deterministic=not train)(outputs)
            arguments = {"mask": mask, "reset": reset, "train": train}
            carry, above = layer(outputs, initial_carry=carry, **arguments)
            if self.residual and above.shape == outputs.shape:
                above = above + (outputs if mask is None else outputs * mask[..., None])
            outputs = above
            carries.append(carry)
        return tuple(carries), outputs

    @nn.nowrap
    def initialize_carry(self, batch_size: int):
        return tuple(layer.initialize_carry(batch_size) for layer in self.layers)


class Bidirectional(nn.Module):
    """One layer forward in time and one backward; the outputs are concatenated `[B, T, 2H]`.

    The backward pass starts at each sequence's own end, since masked steps leave a carry as it
    is. Schuster & Paliwal 1997.
    """

    forward: nn.Module
    backward: nn.Module

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
        """As `RNN`; the carry is the pair (forward's, backward's)."""
        _check_layers("Bidirectional", (self.forward, self.backward))
        directions = [getattr(layer, "reverse", None) for layer in (self.forward, self.backward)]
        if directions in ([False, False], [True, True], [True, False]):
            raise UserError(
                "Bidirectional expects a forward layer and a backward one, as in "
                "Bidirectional(RNN(cell), RNN(cell, reverse=True)), got reverse="
                f"{directions[0]} and reverse={directions[1]}"
            )
        first, second = _parts("Bidirectional", initial_carry, 2)
        arguments = {"mask": mask, "reset": reset, "train": train}
        ahead, left = self.forward(inputs, initial_carry=first, **arguments)
        back, right = self.backward(inputs, initial_carry=second, **arguments)
        return (ahead, back), jnp.concatenate([left, right], axis=-1)

    @nn.nowrap
    def initialize_carry(self, batch_size: int):
        return self.forward.initialize_carry(batch_size), self.backward.initialize_carry(batch_size)


def _check_layers(who: str, layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, nn.RNNCellBase):
            name = type(layer).__name__
            raise UserError(f"{who} expects layers, got the cell {name}; RNN({name}(...)) is one")


def _parts(who: str, initial_carry, count: int) -> tuple:
    """The carry of every layer."""
    if initial_carry is None:
        return (None,) * count
    if not isinstance(initial_carry, tuple | list) or len(initial_carry) != count:
        came = type(initial_carry).__name__
        came += f" of {len(initial_carry)}" if isinstance(initial_carry, tuple | list) else ""
        raise UserError(
            f"{who} expects an initial_carry of {count} carries, one for every layer, got a "
            f"{came}; initialize_carry(B) makes one"
        )
    return tuple(initial_carry)
