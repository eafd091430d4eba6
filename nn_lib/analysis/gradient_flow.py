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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nn_lib.checks import UserError
from nn_lib.recurrent import RNN
from nn_lib.recurrent.cell import Cell


def state_gradients(model: nn.Module, variables, loss: Callable, *arguments, **keywords):
    """dL/dh_t of every `RNN` within a model, by all paths, for the loss of its outputs.

    Args:
      loss: `(what model.apply returns) -> scalar`.
      arguments: of the model's call, keywords too.

    Returns:
      {path of the RNN: the tree of its carry, leaves `[B, T, ...]`}, entry t for the state after
      the step of input t; zero where the step is masked.
    """
    shapes: dict[tuple[str, ...], Any] = {}

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, RNN) and context.method_name == "__call__":
            length = args[0].shape[1]
            shapes[context.module.path] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((len(leaf), length, *leaf.shape[1:]), leaf.dtype),
                result[0],
            )
        return result

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda: model.apply(variables, *arguments, **keywords))
    if not shapes:
        raise UserError(f"state_gradients: there is no RNN within {type(model).__name__}")

    def loss_of(shifts):
        collection: dict[str, Any] = {}
        for path, shift in shifts.items():
            place = collection
            for name in path:
                place = place.setdefault(name, {})
            place["carry"] = shift
        shifted = {**variables, "perturbations": collection}
        return loss(model.apply(shifted, *arguments, **keywords))

    zeros = jax.tree.map(_zeros, shapes)
    found = jax.jit(jax.grad(loss_of))(zeros)
    return {"/".join(path): found[path] for path in shapes}


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
        return jax.tree.map(lambda g: jnp.linalg.norm(g.reshape(len(g), -1), axis=1), gradient)

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


def layer_gradients(model: nn.Module, variables, loss: Callable, *arguments, **keywords):
    """dL/d(output) of every layer with a `kernel`, dense or convolutional, in the order of calls.

    The lecture's dilution through depth: their norms show how much of the error reaches a layer.

    Args:
      loss: `(what model.apply returns) -> scalar`.

    Returns:
      {path of the layer: an array like its output}; calls of a shared layer after the first have
      `#2`, `#3` and so on behind the path.
    """
    shapes: dict[str, Any] = {}

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
        shapes[path] = jax.ShapeDtypeStruct(result.shape, result.dtype)
        return result

    with outputs_of_layers(remember):
        jax.eval_shape(lambda: model.apply(variables, *arguments, **keywords))

    def loss_of(shifts):
        with outputs_of_layers(lambda path, result: result + shifts[path]):
            return loss(model.apply(variables, *arguments, **keywords))

    gradients = jax.jit(jax.grad(loss_of))(jax.tree.map(_zeros, shapes))
    return {path: gradients[path] for path in shapes}


def norms_over_time(gradients) -> np.ndarray:
    """`[T]`: the norm of a tree with leaves `[B, T, ...]` at every step, over batch and units."""
    squares: Any = 0.0
    for leaf in jax.tree.leaves(gradients):
        squares = squares + jnp.sum(leaf**2, axis=(0, *range(2, leaf.ndim)))
    return np.asarray(jnp.sqrt(squares))


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)
