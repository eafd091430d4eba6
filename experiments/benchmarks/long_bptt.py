"""Back-propagation over a long sequence: the plain scan, our written-out gradient, and chunks.

python -m experiments.benchmarks.long_bptt [--rounds=15] [--length=4096] [--chunks=16,64]

The gradient of an LSTM's weights, inputs and initial state; all ways alternately in one process,
medians. Memory is that of intermediate results, as the compiler gives it.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.allocator import keep_freed_memory
from experiments.benchmarks import compare, recurrent
from experiments.benchmarks import recurrent_peers as peers
from nn_lib.recurrent import RNN, LSTMCell

LENGTH = flags.DEFINE_integer("length", 4096, "T of the sequence.", lower_bound=2)
CHUNKS = flags.DEFINE_list("chunks", ["16", "64", "256"], "Steps of a chunk.")
BATCH, INPUTS, UNITS = 16, 64, 128


def main(argv: list[str]) -> None:
    del argv
    keep_freed_memory()
    values = peers.draw((BATCH, LENGTH.value, INPUTS, UNITS), jnp.dtype("float32"))
    ways: dict[str, dict] = {"plain scan": {"custom_gradient": False}, "written out": {}}
    for chunk in map(int, CHUNKS.value):
        ways[f"plain, chunks of {chunk}"] = {"custom_gradient": False, "chunk": chunk}
        ways[f"written out, chunks of {chunk}"] = {"chunk": chunk}
    sides: dict[str, Any] = {
        name: program(RNN(LSTMCell(UNITS), **fields), values) for name, fields in ways.items()
    }
    seconds = compare.alternate(sides, True, recurrent.ROUNDS.value)
    memory = {name: side.temporary_bytes(True) for name, side in sides.items()}
    rows = []
    for name in sides:
        rows.append(
            {
                "way": name,
                "seconds": seconds[name],
                "time_ratio": seconds[name] / seconds["plain scan"],
                "temporary_bytes": memory[name],
                "memory_ratio": memory[name] / memory["plain scan"],
            }
        )
        print(
            f"{name:28} {1e3 * seconds[name]:7.0f} ms ({rows[-1]['time_ratio']:.2f})  "
            f"{memory[name] / 2**20:7.1f} MiB ({rows[-1]['memory_ratio']:.3f})",
            flush=True,
        )
    kind = jax.devices()[0].device_kind.replace(" ", "_").lower()
    file = Path(recurrent.FOLDER.value) / f"long_bptt_{kind}.csv"
    compare.write(file, rows)
    print(f"{BATCH}x{LENGTH.value}x{INPUTS}x{UNITS}, {compare.versions()}; written {file}")


def program(layer: RNN, values: peers.Values) -> peers.Program:
    def apply(variables, inputs, h, c):
        carry, outputs = layer.apply(variables, inputs, initial_carry=(c, h))
        return outputs, carry

    variables = layer.init(jax.random.key(0), jnp.asarray(values.inputs[:, :2]))
    return peers.Program(apply, variables, values, lstm=True)


if __name__ == "__main__":
    app.run(main)
