"""Decoding in one jitted loop beside a naive loop that calls the device for every token.

python -m experiments.benchmarks.decoding [--rounds=9]

Prints tokens a second of both and their ratio, measured alternately in this process, for a
character model that samples and for an encoder-decoder.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command_line
from nn_lib.decoding import sample, stream, transcribe
from nn_lib.models import CharLM, Seq2Seq
from nn_lib.recurrent import LSTMCell

ROUNDS = flags.DEFINE_integer("rounds", 9, "Measurements of each side.", lower_bound=1)

LENGTH, ROWS, STEPS = 256, 32, 20


def main() -> None:
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'':34}{'naive':>10}{'one loop':>10}  tokens/s, median of {ROUNDS.value}; ratio")
    for name, tokens, naive, ours in (sampling(), transcribing()):
        sides: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS.value + 1):  # the first round compiles
            for times, call in zip(sides, (naive, ours)):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
        slow, fast = (tokens / statistics.median(times[1:]) for times in sides)
        print(f"{name:34}{slow:10,.0f}{fast:10,.0f}  {fast / slow:.1f}", flush=True)


def sampling():
    """256 characters, one after the other, by an LSTM of 256 units."""
    model = CharLM(65, LSTMCell(256))
    prompt = np.zeros(1, np.int32)
    variables = model.init(jax.random.key(0), prompt[None])

    @jax.jit
    def step(variables, carry, token, key):
        logits, carry = model.apply(variables, token[None], carry=carry)
        return carry, sample(key, logits[:, -1], temperature=0.8)

    def naive():
        carry, token = model.initialize_carry(1), prompt
        for position in range(LENGTH):
            carry, token = step(variables, carry, token, jax.random.key(position))
            int(token[0])

    def ours():
        list(stream(model, variables, prompt, LENGTH, temperature=0.8))

    return "character LSTM, 256 units, 1 text", LENGTH, naive, ours


def transcribing():
    """20 tokens for each of 32 sources, by an encoder-decoder of 256 units that never ends."""
    model = Seq2Seq(30, 42, LSTMCell(256), attention="bahdanau", bidirectional=True)
    sources = jax.random.randint(jax.random.key(0), (ROWS, 10), 0, 30)
    mask = jnp.ones(sources.shape, bool)
    variables = model.init(jax.random.key(0), sources)
    bias = variables["params"]["output"]["bias"]
    variables["params"]["output"]["bias"] = bias.at[1].set(-100.0)  # END
    read = jax.jit(lambda v, x, m: model.apply(v, x, m, method="read"))

    @jax.jit
    def step(variables, carry, token, memory):
        carry, logits = model.apply(variables, carry, token, memory, method="step")
        return carry, jnp.argmax(logits, axis=-1)

    def naive():
        carry, memory = read(variables, sources, mask)
        token = np.zeros(ROWS, np.int32)
        for _ in range(STEPS):
            carry, token = step(variables, carry, token, memory)
            token = np.asarray(token)  # is it the end?

    loop = jax.jit(lambda v, x, m: transcribe(model, v, x, m, max_length=STEPS))

    def ours():
        jax.block_until_ready(loop(variables, sources, mask))

    return f"encoder-decoder, {ROWS} texts, greedy", ROWS * STEPS, naive, ours


if __name__ == "__main__":
    command_line.run(main, required=())
