"""The flags by which a main becomes one of several processes; joined before JAX computes."""

import logging
import os
import socket
import sys
import threading
from typing import Any

import jax
from absl import flags

from experiments import command_line
from nn_lib.checks import UserError, first_line

# Seconds without a sign of life after which a process is taken for dead, and all others end.
PEER_TIMEOUT = 30

DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Take part in the job of the cluster that this runs in: SLURM, Open MPI, Kubernetes, TPU pod.",
)

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, which must be free there; with --num_processes and --process_id. "
    "experiments.launch sets the three.",
)

NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job.", lower_bound=1)

PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is.", lower_bound=0)

JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds to wait for the other processes at the start.", lower_bound=1
)


def join() -> None:
    """Joins the other processes, where there are any.

    Raises:
      UserError: half of an address, no cluster, or processes that do not come.
    """
    address = _address()
    if not address and not DISTRIBUTED.value:
        return
    if address and address["process_id"] == 0:
        _check_port(address["coordinator_address"])
    # SIGTERM is ours to handle: all processes agree on the step after which they stop.
    jax.config.update("jax_enable_preemption_service", False)
    # When its own time is up, JAX aborts the process with a stack trace.
    alarm = threading.Timer(JOIN_TIMEOUT.value, _give_up, (address,))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            **address,
            initialization_timeout=JOIN_TIMEOUT.value + 60,
            heartbeat_timeout_seconds=PEER_TIMEOUT,
            shutdown_timeout_seconds=60,
        )
    except ValueError as error:
        if address:
            raise UserError(f"{_where(address)} cannot be joined: {first_line(error)}") from error
        raise UserError(
            f"--distributed: no cluster was detected ({error}); SLURM, Open MPI, Kubernetes and "
            "TPU pods are, elsewhere give --coordinator=host:port --num_processes= --process_id="
        ) from error
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise UserError(
                "the config, or what it imports, computes with JAX as it is read (jnp arrays, "
                "jax.devices()), before the processes have found one another; let its functions "
                "compute when they are called, or use numpy"
            ) from error
        raise UserError(
            f"{_where(address)} cannot be used as coordinator: {first_line(error)}"
        ) from error
    finally:
        alarm.cancel()
    if jax.process_index():
        logging.getLogger("nn_lib").setLevel(logging.ERROR)  # the first process says it
        logging.getLogger("nn_lib.data").setLevel(logging.WARNING)  # but what each reads itself


def _address() -> dict[str, Any]:
    """What the flags or else the launcher's variables say; {} where neither do."""
    names = ("coordinator_address", "num_processes", "process_id")
    said = {name: f"--{name}" for name in names} | {names[0]: "--coordinator"}
    values: dict[str, Any] = dict(
        zip(names, (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value))
    )
    if all(value is None for value in values.values()):
        said = {name: f"JAX_{name.upper()}" for name in names}
        values = {name: os.environ.get(variable) or None for name, variable in said.items()}
        if DISTRIBUTED.value or all(value is None for value in values.values()):
            return {}
    missing = [said[name] for name in names if values[name] is None]
    if missing:
        raise UserError(
            f"{said[names[0]]}=host:port, {said[names[1]]} and {said[names[2]]} belong together, "
            f"and {' and '.join(missing)} is missing; --distributed alone asks the cluster"
        )
    coordinator = values[names[0]]
    if not coordinator.rpartition(":")[2].isdecimal() or not coordinator.rpartition(":")[0]:
        raise UserError(f"{said[names[0]]} must be host:port, got {coordinator!r}")
    for name, least in zip(names[1:], (1, 0)):
        if not str(values[name]).isdecimal() or int(values[name]) < least:
            raise UserError(
                f"{said[name]} must be a whole number, {least} or more, got {values[name]!r}"
            )
        values[name] = int(values[name])
    if values[names[2]] >= values[names[1]]:
        raise UserError(
            f"{said[names[2]]} must be below {said[names[1]]} {values[names[1]]}, got "
            f"{values[names[2]]}"
        )
    return values


def _check_port(coordinator: str) -> None:
    """JAX would end in a segmentation fault where the port is taken."""
    port = int(coordinator.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"process 0 cannot listen at {coordinator} ({error}); choose another port, on every "
            "process"
        ) from error


def _give_up(address: dict[str, Any]) -> None:
    print(
        f"{command_line.program()}: the processes did not find one another at {_where(address)} "
        f"within --join_timeout={JOIN_TIMEOUT.value} s; do all of them run, and is the port of "
        "process 0 open to the others?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(command_line.USER_MISTAKE)


def _where(address: dict[str, Any]) -> str:
    return address.get("coordinator_address", "the address that the cluster names")
