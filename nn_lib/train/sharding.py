"""Where arrays lie: the one mesh of devices, made from the config; models do not know of it.

The batch, and the recurrent carry with it, is cut over the axes `data` and `fsdp`; parameters,
optimizer state and averaged parameters over `fsdp`, and matrices over `model` too. XLA (GSPMD) then
computes as if on one device: batch statistics and metrics are those of the global batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nn_lib.checks import UserError

BATCH = PartitionSpec(("data", "fsdp"))
# For a CPU, XLA would merge what rematerialisation computes again with what it computed first.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# Before 0.12, a CPU's program that JAX reads from its compilation cache has lost the order of its
# collective operations: each device begins another one, and all wait without end.
CACHE_LOSES_ORDER = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)
SMALL = 4096  # elements; a smaller leaf is not worth a transfer for every use


@dataclasses.dataclass
class MeshConfig:
    """How many parts each axis has; one of them may be -1, what the others leave of the devices.

    Attributes:
      data: parts of the batch; parameters are the same on each.
      fsdp: parts of the batch and of parameters and optimizer state, gathered for their use.
      model: parts of matrices: dense and recurrent kernels, embeddings.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """The mesh with the shardings that follow from it.

    Where it has one device only, nothing is placed and nothing changes.
    """

    mesh: Mesh

    @classmethod
    def of(cls, config: MeshConfig) -> "Layout":
        """The layout of all devices; of the first ones where one process asks for fewer.

        With several CPU devices and a jaxlib before 0.12, this process compiles without JAX's
        persistent cache from here on.

        Raises:
          UserError: sizes that the devices do not have.
        """
        # Processes one after the other, so that each holds consecutive rows of a batch.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        sizes = _sizes(config, len(devices))
        if math.prod(sizes) < len(devices) and jax.process_count() > 1:
            raise UserError(
                f"{_named(config)} asks for {math.prod(sizes)} of {len(devices)} devices, and "
                "several processes must use all of theirs; set mesh.data=-1"
            )
        here = len(devices) // jax.process_count()
        if sizes[2] % here and here % sizes[2]:
            raise UserError(
                f"mesh.model {sizes[2]} and the {here} devices of a process do not divide one "
                "another; choose a divisor or a multiple"
            )
        chosen = np.array(devices[: math.prod(sizes)]).reshape(sizes)
        if chosen.size > 1 and devices[0].platform == "cpu" and CACHE_LOSES_ORDER:
            _compile_without_cache()
        return cls(Mesh(chosen, ("data", "fsdp", "model")))

    def __str__(self) -> str:
        names = [f"{name} {size}" for name, size in self.mesh.shape.items() if size > 1]
        cut = f" ({' x '.join(names)})" if names else ""
        among = f" of {jax.device_count()}" if self.mesh.size < jax.device_count() else ""
        several = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
        kind = self.mesh.devices.flat[0].device_kind
        return f"{self.mesh.size}{among} x {kind}{cut}{several}"

    @property
    def one_device(self) -> bool:
        return self.mesh.size == 1

    @property
    def shards(self) -> int:
        """Parts that a batch is cut into."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def process(self) -> tuple[int, int]:
        """(index, count) of this process's consecutive part of every batch.

        Processes that share the parts of a matrix alone have the same rows.
        """
        count = jax.process_count()
        together = max(self.mesh.shape["model"] // (self.mesh.size // count), 1)
        return jax.process_index() // together, count // together

    @property
    def batch(self) -> NamedSharding:
        return NamedSharding(self.mesh, BATCH)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def check_batch(self, batch_size: int, accumulation: int = 1) -> None:
        """Raises UserError for a global batch that cannot be cut evenly."""
        if batch_size % (self.shards * accumulation):
            parts = f" in {accumulation} parts" if accumulation > 1 else ""
            raise UserError(
                f"batch_size {batch_size}{parts} does not divide among {self.shards} devices "
                f"(mesh: data {self.mesh.shape['data']} x fsdp {self.mesh.shape['fsdp']}); choose "
                f"a multiple of {self.shards * accumulation}, or a smaller --config.mesh.data"
            )

    def put(self, batch: Any, *, whole: bool = False) -> Any:
        """This process's part of a batch on its devices, as parts of global arrays.

        Args:
          whole: the batch is the global one, of which this process's part is to be taken.
        """
        if self.one_device:
            return batch
        if jax.process_count() == 1:
            return jax.device_put(batch, self.batch)
        index, count = self.process
        if whole:
            batch = jax.tree.map(lambda x: np.split(np.asarray(x), count)[index], batch)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(
                self.batch, np.asarray(x), (len(x) * count, *np.shape(x)[1:])
            ),
            batch,
        )

    def spread(self, parts: Any) -> Any:
        """Within a compiled function: the rows, axis 1, of parts of a batch over the devices."""
        if self.one_device:
            return parts
        rows = NamedSharding(self.mesh, PartitionSpec(None, *BATCH))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), parts)

    def carry(self, model: Any, streams: int) -> Any:
        """The initial recurrent state of that many streams in all."""
        carry = model.initialize_carry(streams)
        if self.one_device:
            return carry
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, self.batch, np.asarray(x).__getitem__),
            carry,
        )

    def make_state(self, make: Callable, batch: Any, shardings: Any) -> Any:
        """The TrainState that `make(batch)` returns, every part of it made where it will lie."""
        if self.one_device:
            return make(batch)
        return jax.jit(make, out_shardings=shardings)(batch)

    def jit_step(self, step: Callable, state: Any) -> Callable:
        """A training step compiled; the old state's memory becomes the new one's."""
        shardings = None if self.one_device else (self.state(state), self.replicated)
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return jax.jit(
            step,
            donate_argnums=0,
            out_shardings=shardings,
            compiler_options=KEEP_BARRIERS if on_cpu else None,
        )

    def jit_evaluation(self, step: Callable) -> Callable:
        """`(variables, batch, carry) -> (metrics, carry)` compiled."""
        shardings = None if self.one_device else (self.replicated, self.batch)
        return jax.jit(step, out_shardings=shardings)

    def jit_replicated(self, function: Callable) -> Callable:
        """A compiled function whose result every process can read."""
        return jax.jit(function, out_shardings=None if self.one_device else self.replicated)

    def state(self, abstract: Any) -> Any:
        """The shardings of a TrainState, from its shapes."""
        cut = dict.fromkeys(("params", "opt_state", "ema"), self.parameters)
        cut["carry"] = lambda tree: jax.tree.map(lambda _: self.batch, tree)
        same = functools.partial(jax.tree.map, lambda _: self.replicated)
        fields = {
            field.name: getattr(abstract, field.name) for field in dataclasses.fields(abstract)
        }
        return type(abstract)(**{name: cut.get(name, same)(x) for name, x in fields.items()})

    def parameters(self, tree: Any) -> Any:
        """The shardings of parameters, and of what is kept for each of them."""
        return jax.tree.map(lambda x: NamedSharding(self.mesh, self._cut(x.shape)), tree)

    def _cut(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Matrices by their last axis over `model`, then the largest axis left over `fsdp`."""
        axes: list[str | None] = [None] * len(shape)
        if math.prod(shape) < SMALL:
            return PartitionSpec()
        model, fsdp = self.mesh.shape["model"], self.mesh.shape["fsdp"]
        if model > 1 and len(shape) == 2 and not shape[1] % model:
            axes[1] = "model"
        free = [i for i, size in enumerate(shape) if axes[i] is None and not size % fsdp]
        if fsdp > 1 and free:
            axes[max(free, key=lambda i: (shape[i], i))] = "fsdp"
        return PartitionSpec(*axes)

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device."""
        return tree if self.one_device else jax.device_put(tree, self.replicated)

    def copy(self, tree: Any) -> Any:
        """The same values in memory of their own, laid out alike."""
        where = None if self.one_device else jax.tree.map(lambda x: x.sharding, tree)
        return jax.jit(_copied, out_shardings=where)(tree)

    def fetch(self, tree: Any) -> Any:
        """Global arrays as arrays of the host; every process must call it."""
        if jax.process_count() > 1:
            tree = jax.jit(_unchanged, out_shardings=self.replicated)(tree)
        return jax.device_get(tree)


def _compile_without_cache() -> None:
    if jax.config.values["jax_enable_compilation_cache"]:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX looks at the setting once


# Not lambdas: the same function is compiled once, however often it is wrapped.
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _unchanged(tree: Any) -> Any:
    return tree


def _sizes(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    asked = (config.data, config.fsdp, config.model)
    if any(size < 1 and size != -1 for size in asked) or asked.count(-1) > 1:
        raise UserError(f"{_named(config)}: every size is 1 or more, one of them may be -1")
    fixed = math.prod(size for size in asked if size != -1)
    if fixed > devices or (-1 in asked and devices % fixed):
        raise UserError(
            f"{_named(config)} does not divide the {devices} devices that there are; choose sizes "
            f"whose product is {devices}"
        )
    data, fsdp, model = (devices // fixed if size == -1 else size for size in asked)
    return data, fsdp, model


def _named(config: MeshConfig) -> str:
    return f"mesh data {config.data} x fsdp {config.fsdp} x model {config.model}"
