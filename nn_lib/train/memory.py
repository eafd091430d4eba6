"""What a run needs of a device's memory, told before the state is made and the first step taken."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from nn_lib.checks import UserError, first_line
from nn_lib.data.control_groups import limits, own_group
from nn_lib.train import processes

NEARLY_FULL = 0.9
REMEDIES = (
    "a smaller --config.batch_size or more --config.accumulation, --config.model.remat=full where "
    "the model has it, or --config.model.dtype=bfloat16 and parameters cut by --config.mesh.fsdp"
)
STATE_REMEDIES = (
    "parameters cut by --config.mesh.fsdp over more devices, an --config.optimizer.name that keeps "
    "less of each (sgd), or a smaller --config.model"
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


def check_state(abstract: Any, shardings: Any) -> None:
    """Of a TrainState that is not made yet, by its shapes.

    Raises:
      UserError: a device has less than its part of it, with the settings that would help.
    """

    def needed(tree, shardings) -> int:
        sizes = jax.tree.map(
            lambda x, sharding: math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize,
            *(tree, shardings),
        )
        return sum(jax.tree.leaves(sizes))

    devices = jax.tree.leaves(shardings)[0].device_set
    total, limit = needed(abstract, shardings), available(devices)
    if limit and total > limit:
        parameters = needed(abstract.params, shardings.params)
        optimizer = needed(abstract.opt_state, shardings.opt_state)
        raise UserError(
            f"the parameters and their optimizer's state do not fit into a device's memory: "
            f"parameters {_readable(parameters)}, optimizer {_readable(optimizer)}; in all "
            f"{_readable(total)} of {_readable(limit)}. What helps: {STATE_REMEDIES}"
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
        available=available(jax.tree.leaves(state)[0].sharding.device_set),
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


def available(devices: Iterable[jax.Device]) -> int | None:
    """Bytes that each of these devices has: its own, or on a CPU its share of the machine's, and
    of what control groups grant.

    Every process must call it.
    """
    here = [device for device in devices if device.process_index == jax.process_index()]
    if here[0].platform != "cpu":
        return (here[0].memory_stats() or {}).get("bytes_limit")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = own_group()
    share, share_of_own = processes.on_this_machine(), processes.on_this_machine(own)
    granted = [
        int(limit) // (share_of_own if group == own else share)
        for group, limit in limits("memory.max")
        if limit.strip() != "max"
    ]
    return min([machine // share, *granted]) // len(here)


@contextlib.contextmanager
def told_as_mistake(remedies: str = REMEDIES) -> Iterator[None]:
    """Turns what the runtime says when memory runs out into a UserError with what helps."""
    try:
        yield
    except UserError:
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"out of memory ({first_line(error)}). What helps: {remedies}") from error


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
