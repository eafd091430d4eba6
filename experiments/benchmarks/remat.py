"""What rematerialisation saves: the compiler's memory for a training step, policy by policy.

python -m experiments.benchmarks.remat [--model=ResNet50] [--batch_size=8] [--size=224]

Nothing is run: the figures are those of the compiled program for this device, the gradient of a
classifier's loss by its parameters. Activations are its temporaries, all at their highest.
"""

import time

import jax
from absl import flags

from experiments import command_line
from nn_lib import models
from nn_lib.analysis.training_memory import training_memory
from nn_lib.checks import check_choice
from nn_lib.layers.rematerialisation import POLICIES

MODEL = flags.DEFINE_string("model", "ResNet50", "A network with a field `remat`.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 224, "Pixels in both directions.", lower_bound=32)


def main() -> None:
    kinds = [name for name in models.__all__ if "remat" in _fields(getattr(models, name))]
    check_choice("--model", MODEL.value, kinds)
    whole = 0
    for policy in POLICIES:
        began = time.perf_counter()
        model = getattr(models, MODEL.value)(remat=policy)
        found = training_memory(model, BATCH_SIZE.value, SIZE.value)
        whole = whole or found.temp_size_in_bytes
        print(
            f"{policy:<5} activations {found.temp_size_in_bytes / 2**20:>8,.1f} MiB "
            f"({found.temp_size_in_bytes / whole:.3f}), arguments "
            f"{found.argument_size_in_bytes / 2**20:,.1f} MiB, compiled in "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    print(
        f"{MODEL.value}, {BATCH_SIZE.value} images of {SIZE.value} pixels, "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    )


def _fields(kind) -> tuple[str, ...]:
    kind = getattr(kind, "func", kind)
    return tuple(getattr(kind, "__dataclass_fields__", ()))


if __name__ == "__main__":
    command_line.run(main, required=())
