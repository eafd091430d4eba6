"""The compiler's account of the memory that training an image network takes, without running it."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from nn_lib.layers.rematerialisation import KEEP_ON_CPU


def training_memory(model: nn.Module, batch_size: int, size: int) -> Any:
    """Of one step of gradient descent on `[batch_size, size, size, 3]` images.

    Returns:
      JAX's `memory_analysis`: `temp_size_in_bytes` are the activations and all else that lives
      within the step, `argument_size_in_bytes` the parameters and the images.
    """
    images = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(variables, images, labels):
        def loss_of(params):
            logits, state = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), state

        gradient, state = jax.grad(loss_of, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
        return {"params": params, **state}

    options = KEEP_ON_CPU if jax.default_backend() == "cpu" else None
    lowered = step.lower(variables, images, labels)
    return lowered.compile(compiler_options=options).memory_analysis()
