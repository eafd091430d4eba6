"""How a gradient flows through time and through depth.

Through time, with h_t the state after step t (all arrays of a carry):

```
delta_l^(i) = dE_i / dh_l,   dE_i/dW = sum_{l <= i} delta_l^(i) d+h_l/dW
dh_i/dh_l = prod_{j = l+1..i} dh_j/dh_{j-1}
```
where d+ is the derivative of one step with the state before it held. Bengio, Simard & Frasconi
1994, "Learning long-term dependencies with gradient descent is difficult"; Pascanu, Mikolov &
Bengio 2013, "On the difficulty of training recurrent neural networks".
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nn_lib.checks import UserError
from nn_lib.recurrent import RNN
from nn_lib.recurrent.cell import Cell


class Layer(NamedTuple):
    """A recurrent layer that a loss runs through.

    Attributes:
      rnn: the `RNN`, unbound.
      variables: of its cell, `{'params': ...}`.
      inputs: that the layer read, `[B, T, F]`.
      carry: its last, whose arrays begin with B.
    """

    rnn: Any
    variables: dict[str, Any]
    inputs: jax.Array
    carry: Any


def recurrent_layers(loss: Callable, variables) -> dict[str, Layer]:
    """Every `RNN` that `loss(variables)` calls, by its path in the model.

    Raises:
      UserError: there is none, or one that is called twice.
    """
    found: dict[str, Layer] = {}

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, RNN) and context.method_name == "__call__":
            rnn = context.module
            path = "/".join(rnn.path)
            if path in found:
                raise UserError(f"gradient_flow: the RNN {path!r} is called twice; call it once")
            inputs = args[0] if args else kwargs["inputs"]
            found[path] = Layer(rnn.clone(parent=None), rnn.cell.variables, inputs, result[0])
        return result

    with nn.intercept_methods(watch):
        _plain(loss)(variables)
    if not found:
        raise UserError("gradient_flow: there is no RNN in this model")
    return found


def state_gradients(loss: Callable, variables) -> dict[str, Any]:
    """dL/dh_t by all paths, of every `RNN` with one of our cells that the loss calls.

    Of an LSTM both c_t and h_t are states; what c_t does through h_t of the same step counts as
    h_t's.

    Args:
      loss: `variables -> scalar`; it applies a model to them.
      variables: `{'params': ..., ...}` of the model.

    Returns:
      {path of the RNN: the tree of its carry, leaves `[B, T, ...]`}, entry t for the state after
      the step of input t; zero where the step is masked.
    """
    loss = _plain(loss)
    layers = recurrent_layers(loss, variables)
    zeros = {
        path: jax.tree.map(
            lambda leaf, length=layer.inputs.shape[1]: jnp.zeros(
                (len(leaf), length, *leaf.shape[1:]), leaf.dtype
            ),
            layer.carry,
        )
        for path, layer in layers.items()
    }

    def loss_of(shifts):
        collection: dict[str, Any] = {}
        for path, shift in shifts.items():
            place = collection
            for name in filter(None, path.split("/")):
                place = place.setdefault(name, {})
            place["carry"] = shift
        return loss({**variables, "perturbations": collection})

    found = jax.jit(jax.grad(loss_of))(zeros)
    return {path: found[path] for path in layers}


def weight_terms(cell: Cell, variables, inputs: jax.Array, error: Callable, step: int):
    """The terms `delta_l^(i) d+h_l/dW` of dE_i/dW, i = `step`, for every weight of a cell.

    Args:
      variables: `{'params': ...}` of the cell.
      inputs: `[B, T, F]`.
      error: `outputs [T, B, H] -> E [T]`, one error for every step.

    Returns:
      The tree of `cell.weights`, leaves `[T, ...]`: entry l is what the copy of the weight at step
      l contributes; they add up to dE_i/dW.
    """
    errors, copies = _by_copies(cell, variables, inputs, error)
    return jax.grad(lambda copies: errors(copies)[step])(copies)


def weight_term_norms(cell: Cell, variables, inputs: jax.Array, error: Callable):
    """The tree of `cell.weights` with `[T, T]`, row i and column l: the norms of `weight_terms`."""
    errors, copies = _by_copies(cell, variables, inputs, error)

    @jax.jit
    def norms(step):
        gradient = jax.grad(lambda copies: errors(copies)[step])(copies)
        return jax.tree.map(lambda g: _norm(g.reshape(len(g), -1)), gradient)

    return jax.lax.map(norms, jnp.arange(inputs.shape[1]))


def _by_copies(cell: Cell, variables, inputs, error: Callable):
    """The errors as a function of a copy of the weights for every step, and these copies."""
    _, length, features = inputs.shape
    w = cell.apply(variables, features, method="weights")
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (length, *leaf.shape)), w)
    initial = cell.initial_carry(w, inputs[:, 0])

    def errors(copies):
        def step(carry, now):
            w, x = now
            return cell.step(w, carry, cell.project(w, cell.cast(x)))

        _, outputs = jax.lax.scan(step, initial, (copies, jnp.swapaxes(inputs, 0, 1)))
        return error(outputs)

    return errors, copies


def jacobians(cell: Cell, variables, inputs: jax.Array, carry=None) -> jax.Array:
    """`[T, N, N]`, dh_t/dh_{t-1} of one sequence, the carry laid out as one vector of N numbers.

    Args:
      inputs: `[T, F]`.
      carry: before the first step, a batch of one; None is the cell's own.
    """
    features = inputs.shape[-1]
    w = cell.apply(variables, features, method="weights")
    if carry is None:
        carry = cell.initial_carry(w, inputs[:1])
    projected = cell.project(w, cell.cast(inputs))
    first, unravel = ravel_pytree(carry)

    def step(h, x):
        return ravel_pytree(cell.step(w, unravel(h), x[None])[0])[0]

    def advance(h, x):
        return step(h, x), jax.jacfwd(step)(h, x)

    return jax.lax.scan(advance, first, projected)[1]


def product_singular_values(jacobians: jax.Array) -> np.ndarray:
    """`[T, N]`, descending: singular values of dh_t/dh_0, the products of `jacobians`.

    A largest value that falls to zero is a vanishing gradient, one that grows an exploding one.
    """
    product = jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype)

    def multiply(product, jacobian):
        product = jacobian @ product
        return product, jnp.linalg.svd(product, compute_uv=False)

    return np.asarray(jax.lax.scan(multiply, product, jacobians)[1])


def spectra(cell: Cell, variables: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
    """`eigenvalues` and `singular_values` of every recurrent matrix of a cell.

    These are the column blocks of its `recurrent_kernel`, in their order; a matrix that is not
    square, a projected LSTM's, has no eigenvalues.
    """
    kernel = np.asarray(variables["params"]["recurrent_kernel"])
    found = []
    for matrix in kernel.reshape(-1, *kernel.shape[-2:]):
        for block in np.split(matrix, matrix.shape[1] // cell.features, axis=1):
            own = {"singular_values": np.linalg.svd(block, compute_uv=False)}
            if block.shape[0] == block.shape[1]:
                own["eigenvalues"] = np.linalg.eigvals(block)
            found.append(own)
    return found


def layer_gradients(loss: Callable, variables) -> dict[str, jax.Array]:
    """dL/d(output) of every layer with a `kernel`, dense or convolutional, in the order of calls.

    The lecture's dilution through depth: their norms show how much of the error reaches a layer.

    Args:
      loss: `variables -> scalar`; it applies a model to them.

    Returns:
      {path of the layer: an array like its output}; calls of a shared layer after the first have
      `#2`, `#3` and so on behind the path.
    """
    loss = _plain(loss)
    zeros: dict[str, jax.Array] = {}

    def outputs_of_layers(handle: Callable):
        calls: dict[str, int] = {}

        def intercept(call, args, kwargs, context):
            result = call(*args, **kwargs)
            own = context.module.variables.get("params", {})
            if context.method_name != "__call__" or "kernel" not in own:
                return result
            if not isinstance(result, jax.Array):
                return result  # a recurrent cell's is (carry, output)
            path = "/".join(context.module.path)
            calls[path] = calls.get(path, 0) + 1
            return handle(path + (f"#{calls[path]}" if calls[path] > 1 else ""), result)

        return nn.intercept_methods(intercept)

    def remember(path, result):
        if not isinstance(result, jax.core.Tracer):  # inside of a scan over time
            zeros[path] = jnp.zeros_like(result)
        return result

    with outputs_of_layers(remember):
        loss(variables)

    def loss_of(shifts):
        def shift(path, result):
            return result + shifts[path] if path in shifts else result

        with outputs_of_layers(shift):
            return loss(variables)

    gradients = jax.jit(jax.grad(loss_of))(zeros)
    return {path: gradients[path] for path in zeros}


def norms_over_time(gradients) -> np.ndarray:
    """`[T]`: the norm of a tree with leaves `[B, T, ...]` at every step, over batch and units."""
    squares: Any = 0.0
    for leaf in jax.tree.leaves(gradients):
        wide = np.asarray(leaf, np.float64)  # the squares of a vanishing gradient underflow
        squares = squares + np.sum(wide**2, axis=(0, *range(2, leaf.ndim)))
    return np.sqrt(squares)


def _norm(rows: jax.Array) -> jax.Array:
    """The norm of every row, by way of its largest entry: squares alone underflow."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[:, 0] * jnp.linalg.norm(rows / scale, axis=1)


def _plain(loss: Callable) -> Callable:
    """What a jitted loss was made of: calls of its modules are to be seen."""
    return getattr(loss, "__wrapped__", loss) if hasattr(loss, "lower") else loss
