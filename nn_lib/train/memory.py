"""What a training step needs of a device's memory, told before the first step is taken."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from nn_lib.checks import UserError

NEARLY_FULL = 0.9
REMEDIES = (
    "a smaller --config.batch_size or more --config.accumulation, --config.model.remat=full where "
    "the model has it, or --config.model.dtype=bfloat16 and parameters cut by --config.mesh.fsdp"
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device: the state's from its shapes, the rest the compiler's own figures.

    Attributes:
      parameters, optimizer: as they lie on the device.
      activations: temporaries of the step, all at their highest.
      total: those, the batch, the rest of the state, and results beside the state.
      available: what the device has; None where it does not say.
    """

    parameters: int
    optimizer: int
    activations: int
    total: int
    available: int | None

    def __str__(self) -> str:
        known = f" of {_readable(self.available)}" if self.available else ""
        return (
            f"memory of a device: parameters {_readable(self.parameters)}, optimizer "
            f"{_readable(self.optimizer)}, activations {_readable(self.activations)}; in all "
            f"{_readable(self.total)}{known}"
        )


def analyse(train_step: Any, state: Any, batch: Any) -> Memory | None:
    """Of a jitted step, which is compiled for that, once for all; None where nothing is known."""
    found = train_step.lower(state, batch).compile().memory_analysis()
    if found is None:
        return None
    return Memory(
        parameters=_on_one_device(state.params),
        optimizer=_on_one_device(state.opt_state),
        activations=found.temp_size_in_bytes,
        total=found.argument_size_in_bytes
        + found.temp_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes,
        available=available(),
    )


def check(train_step: Any, state: Any, batch: Any, say: Callable[[str], None]) -> bool:
    """Says what a step will need.

    Returns:
      Whether a second state fits beside it.

    Raises:
      UserError: the device has less, with the settings that would help.
    """
    memory = analyse(train_step, state, batch)
    if memory is None:
        return True
    if memory.available and memory.total > memory.available:
        raise UserError(f"a step does not fit: {memory}. What helps: {REMEDIES}")
    say(str(memory))
    if memory.available and memory.total > NEARLY_FULL * memory.available:
        say(f"the device is nearly full. What helps: {REMEDIES}")
    return not memory.available or memory.total + _on_one_device(state) <= memory.available


def available() -> int | None:
    """Bytes that a local device has: its own, or on a CPU its share of the machine's."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        container = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        container = machine
    return min(machine, container) // jax.local_device_count()


def told_as_mistake(error: Exception) -> UserError | None:
    """What the runtime says when memory runs out, as a line; None for other errors."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    first = str(error).splitlines()[0][:160]
    return UserError(f"out of memory ({first}). What helps: {REMEDIES}")


def _on_one_device(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


def _readable(size: int | None) -> str:
    """As '1.5 GiB'."""
    value, unit = float(size or 0), "KiB"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        value, unit = value / 1024, larger
        if value < 1000:
            break
    return f"{value:.1f} {unit}"
