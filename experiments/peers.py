"""How a main ends when another process of its run has: one line, and a status of its own."""

import os
import re

# sysexits.h: a temporary failure, the same may be tried again.
STATUS = os.EX_TEMPFAIL  # 75
LINE = "another process of this run has ended; the same command continues from the last checkpoint"

# What is said of it by Gloo (on CPUs), JAX's coordination service, and NCCL (on GPUs).
_GONE = re.compile(
    r"Gloo .* failed: .*(closed by peer|reset by peer|Broken pipe|Connection refused)"
    r"|Failed to send RPC to coordination service"
    r"|heartbeat timeout|stopped sending heartbeats"
    r"|remote process exited or there was a network error",
    re.DOTALL,
)


def gone(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that another process cannot be reached."""
    while error is not None:
        if _GONE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
