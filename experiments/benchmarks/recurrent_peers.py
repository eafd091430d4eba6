"""The recurrent layers that ours are measured against, each behind one small interface.

A contender is `build(cell, shape, values) -> run`, where `run(train)` computes the outputs and the
final state, and with `train` also the gradients of the weights, of the inputs and of the initial
state under random cotangents, and waits until all of it is there. `shape` is (B, T, D, H).
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Values(NamedTuple):
    """What every contender is given: inputs `[B, T, D]`, initial states and cotangents."""

    inputs: Any
    h: Any
    c: Any
    d_outputs: Any
    d_h: Any
    d_c: Any


def draw(shape: tuple[int, int, int, int], dtype) -> Values:
    """Standard normal numbers."""
    B, T, D, H = shape
    rng = np.random.default_rng(0)
    sizes = [(B, T, D), (B, H), (B, H), (B, T, H), (B, H), (B, H)]
    return Values(*(rng.normal(size=size).astype(dtype) for size in sizes))


class Program:
    """A JAX contender: `apply(params, inputs, h, c) -> (outputs, final states)`, compiled once.

    With `sharded` the batch is spread over all devices, where it divides among them.
    """

    def __init__(
        self, apply: Callable, params: Any, values: Values, lstm: bool, *, sharded: bool = False
    ):
        v = Values(*map(jnp.asarray, values))
        count = jax.device_count()
        if sharded and count > 1 and len(v.h) % count == 0:
            auto = (jax.sharding.AxisType.Auto,)
            mesh = jax.make_mesh((count,), ("batch",), axis_types=auto)
            by_batch = jax.NamedSharding(mesh, jax.P("batch"))
            v = jax.device_put(v, by_batch)
            params = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
        self.arguments = (params, v.inputs, v.h, v.c)
        cotangent = (v.d_outputs, (v.d_c, v.d_h) if lstm else v.d_h)

        def train(params, inputs, h, c, cotangent):
            result, back = jax.vjp(apply, params, inputs, h, c)
            return result, back(cotangent)

        self.cotangent = cotangent
        self.lowered = {
            False: jax.jit(apply).lower(*self.arguments),
            True: jax.jit(train).lower(*self.arguments, cotangent),
        }
        self.compiled = {train: lowered.compile() for train, lowered in self.lowered.items()}

    def __call__(self, train: bool) -> None:
        arguments = (*self.arguments, self.cotangent) if train else self.arguments
        jax.block_until_ready(self.compiled[train](*arguments))

    def temporary_bytes(self, train: bool) -> int:
        """Memory for intermediate results, as the compiler says."""
        analysis: Any = self.compiled[train].memory_analysis()
        return analysis.temp_size_in_bytes


def ours(cell: str, shape, values: Values):
    from nn_lib.recurrent import RNN, GRUCell, LSTMCell, VanillaCell

    H, dtype = shape[3], jnp.dtype(values.inputs.dtype)
    kinds = {"lstm": LSTMCell, "gru": GRUCell, "vanilla": VanillaCell}
    fields = {"reset_after": True} if cell == "gru" else {}
    layer = RNN(kinds[cell](H, param_dtype=dtype, **fields))

    def apply(variables, inputs, h, c):
        carry = (c, h) if cell == "lstm" else h
        carry, outputs = layer.apply(variables, inputs, initial_carry=carry)
        return outputs, carry

    variables = layer.init(jax.random.key(0), jnp.asarray(values.inputs))
    return Program(apply, variables, values, cell == "lstm", sharded=True)


def linen(cell: str, shape, values: Values):
    import flax.linen as nn

    H, dtype = shape[3], jnp.dtype(values.inputs.dtype)
    kinds = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "vanilla": nn.SimpleCell}
    layer = nn.RNN(kinds[cell](H, param_dtype=dtype), return_carry=True)

    def apply(variables, inputs, h, c):
        carry = (c, h) if cell == "lstm" else h
        carry, outputs = layer.apply(variables, inputs, initial_carry=carry)
        return outputs, carry

    variables = layer.init(jax.random.key(0), jnp.asarray(values.inputs))
    return Program(apply, variables, values, cell == "lstm")


def nnx_layer(cell: str, shape, values: Values):
    nnx: Any = importlib.import_module("flax.nnx")
    _, _, D, H = shape
    dtype = jnp.dtype(values.inputs.dtype)
    kinds = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "vanilla": nnx.SimpleCell}
    layer = nnx.RNN(kinds[cell](D, H, param_dtype=dtype, rngs=nnx.Rngs(0)), return_carry=True)
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def apply(params, inputs, h, c):
        carry = (c, h) if cell == "lstm" else h
        carry, outputs = nnx.merge(graph, params, rest)(inputs, initial_carry=carry)
        return outputs, carry

    return Program(apply, params, values, cell == "lstm")


def keras(cell: str, shape, values: Values):
    os.environ["KERAS_BACKEND"] = "jax"
    layers: Any = importlib.import_module("keras.layers")
    B, T, D, H = shape
    kinds = {"lstm": layers.LSTM, "gru": layers.GRU, "vanilla": layers.SimpleRNN}
    dtype = str(values.inputs.dtype)
    layer = kinds[cell](H, return_sequences=True, return_state=True, dtype=dtype)
    layer.build((B, T, D))
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def apply(params, inputs, h, c):
        initial = [h, c] if cell == "lstm" else [h]
        results, _ = layer.stateless_call(params, fixed, inputs, initial_state=initial)
        outputs, states = results[0], results[1:]
        return outputs, (states[1], states[0]) if cell == "lstm" else states[0]

    params = [variable.value for variable in layer.trainable_variables]
    return Program(apply, params, values, cell == "lstm")


def haiku(cell: str, shape, values: Values):
    hk: Any = importlib.import_module("haiku")
    H = shape[3]
    kinds = {"lstm": hk.LSTM, "gru": hk.GRU, "vanilla": hk.VanillaRNN}

    def unroll(inputs, h, c):
        state = hk.LSTMState(hidden=h, cell=c) if cell == "lstm" else h
        outputs, state = hk.dynamic_unroll(kinds[cell](H), jnp.swapaxes(inputs, 0, 1), state)
        final = (state.cell, state.hidden) if cell == "lstm" else state
        return jnp.swapaxes(outputs, 0, 1), final

    pure = hk.without_apply_rng(hk.transform(unroll))
    params = pure.init(jax.random.key(0), values.inputs, values.h, values.c)
    return Program(pure.apply, params, values, cell == "lstm")


def equinox(cell: str, shape, values: Values):
    eqx: Any = importlib.import_module("equinox")
    if cell == "vanilla":
        raise ImportError("equinox has no vanilla cell")
    _, _, D, H = shape
    kind = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[cell]
    layer = kind(D, H, dtype=values.inputs.dtype, key=jax.random.key(0))
    params, static = eqx.partition(layer, eqx.is_array)

    def apply(params, inputs, h, c):
        run = jax.vmap(eqx.combine(params, static))

        def step(state, x):
            state = run(x, state)
            return state, state[0] if cell == "lstm" else state

        first = (h, c) if cell == "lstm" else h
        state, outputs = jax.lax.scan(step, first, jnp.swapaxes(inputs, 0, 1))
        return jnp.swapaxes(outputs, 0, 1), (state[1], state[0]) if cell == "lstm" else state

    return Program(apply, params, values, cell == "lstm")


def torch_layer(cell: str, shape, values: Values):
    torch: Any = importlib.import_module("torch")  # untyped here, since it need not be there
    _, _, D, H = shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "vanilla": torch.nn.RNN}
    v = Values(*(torch.tensor(value, device=device) for value in values))
    layer = kinds[cell](D, H, batch_first=True, device=device, dtype=v.inputs.dtype)
    inputs, h, c = (leaf.requires_grad_() for leaf in (v.inputs, v.h[None], v.c[None]))
    states = [h, c] if cell == "lstm" else [h]
    d_states = [v.d_h[None], v.d_c[None]] if cell == "lstm" else [v.d_h[None]]
    wanted = [*layer.parameters(), inputs, *states]

    def run(train: bool) -> None:
        with torch.set_grad_enabled(train):
            outputs, final = layer(inputs, (h, c) if cell == "lstm" else h)
            if train:
                results = [outputs, *(final if cell == "lstm" else [final])]
                torch.autograd.grad(results, wanted, [v.d_outputs, *d_states])
        if device == "cuda":
            torch.cuda.synchronize()

    return run


PEERS: dict[str, Callable] = {
    "torch": torch_layer,
    "flax.linen": linen,
    "flax.nnx": nnx_layer,
    "keras": keras,
    "haiku": haiku,
    "equinox": equinox,
}
MODULES = {"flax.linen": "flax", "flax.nnx": "flax"}


def installed(peer: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(MODULES.get(peer, peer)) is not None
