"""What the options of the LSTM change: its published variants, in one step."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias, scale_by

# What `gates` means: the blocks of the kernels, in their order.
GATES = {"all": "ifog", "coupled": "fog", "no_forget": "iog"}


def parameters(cell: Any) -> dict[str, tuple]:
    """{name: (initialiser, shape)} of the parameters that a cell's options add."""
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    blocks, H = GATES[cell.gates], cell.features
    extra: dict[str, tuple] = {}
    if cell.peephole:
        extra |= {f"peephole_{gate}": (zeros, (H,)) for gate in blocks if gate != "g"}
    if cell.projection:
        extra["projection_kernel"] = (cell.kernel_init, (H, cell.projection))
    if cell.layer_norm:
        width = (len(blocks) * H,)
        extra |= {"scale_x": (ones, width), "scale_h": (ones, width)}
        extra |= {"scale_c": (ones, (H,)), "bias_c": (zeros, (H,))}
    return extra


def bias_init(cell: Any, key, shape, dtype) -> jax.Array:
    """The cell's own initialiser, and its `forget_bias` on the block f."""
    begin = [cell.forget_bias if block == "f" else 0.0 for block in GATES[cell.gates]]
    return cell.bias_init(key, shape, dtype) + jnp.repeat(jnp.array(begin, dtype), cell.features)


def step(cell: Any, w, carry, projected: jax.Array):
    """One step of the LSTM with the options of `cell`, `(carry, output)`.

    ```
    i, f, o = sigma(a_i + p_i . c_{t-1}), sigma(a_f + p_f . c_{t-1}), sigma(a_o + p_o . c_t)
    c_t = f . c_{t-1} + i . tanh(a_g)          f = 1 without a forget gate, i = 1 - f coupled
    h_t = W_hr (o . tanh(LN(c_t)))
    ```
    where a is the sum of the input's and the state's products, each normalised with `layer_norm`.
    """
    (c, h), dtype = carry, projected.dtype
    product = cell.seen(w, h, dtype) @ w["recurrent_kernel"]
    if cell.layer_norm:
        product = standardize(product, w["scale_h"])
    blocks = GATES[cell.gates]
    a = at_least_float32(projected + product)
    a = dict(zip(blocks, jnp.split(a, len(blocks), axis=-1)))

    def gate(name, c):
        shown = scale_by(c, w[f"peephole_{name}"]) if cell.peephole else 0.0
        return jax.nn.sigmoid(a[name] + shown)

    f = gate("f", c) if "f" in a else 1.0
    i = gate("i", c) if "i" in a else 1 - f
    c = f * c + i * jnp.tanh(a["g"])
    shown = add_bias(standardize(c, w["scale_c"]), w["bias_c"]) if cell.layer_norm else c
    h = gate("o", c) * jnp.tanh(shown)
    if cell.projection:
        h = at_least_float32(h.astype(dtype) @ w["projection_kernel"])
    return (c, h), h.astype(dtype)


def standardize(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over the last axis, times the scale; computed in float32."""
    wide = at_least_float32(x)
    mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
    wide = (wide - mean) * jax.lax.rsqrt(variance + 1e-6)
    return scale_by(wide, scale).astype(x.dtype)
