"""Examples that cannot be read: counted and named once, endured up to a limit."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable

from nn_lib.checks import UserError

log = logging.getLogger("nn_lib.data")


@dataclasses.dataclass(frozen=True)
class BadExample:
    """One that cannot be decoded.

    Attributes:
      split: the expression that its split was read by.
      index: its number there.
      file_name: of its image, where the data set remembers it.
      reason: what the decoder said.
    """

    split: str
    index: int
    file_name: str
    reason: str

    @property
    def key(self) -> tuple[str, int]:
        return self.split, self.index

    def __str__(self) -> str:
        place = f"example {self.index} of {self.split}"
        return f"{self.file_name} ({place})" if self.file_name else place


class BadExamples:
    """Those that this process has met, over all splits of a data set.

    Attributes:
      found: (split, index) -> what is wrong there.
      on_new: called with each when it is first met.
    """

    def __init__(self, name: str, limit: int):
        """`limit` is how many there may be in the data set called `name`."""
        self.name, self.limit = name, limit
        self.found: dict[tuple[str, int], BadExample] = {}
        self.on_new: Callable[[BadExample], None] = _nothing

    def add(self, examples: Iterable[BadExample]) -> None:
        """Counts and reports those that are new.

        Raises:
          UserError: there are more than the limit; it names the last.
        """
        for bad in examples:
            if bad.key in self.found:
                continue
            if len(self.found) >= self.limit:
                raise self.too_many(bad)
            self.found[bad.key] = bad
            self.on_new(bad)
            log.warning("%s: %s cannot be decoded and is skipped: %s", self.name, bad, bad.reason)

    def __getstate__(self):
        """A worker that reads needs no more than the limit."""
        return {"name": self.name, "limit": self.limit, "found": {}, "on_new": _nothing}

    def too_many(self, last: BadExample) -> UserError:
        """The error that ends a run."""
        return UserError(
            f"too many examples of data set {self.name!r} cannot be decoded "
            f"(data.max_bad_examples is {self.limit}); the last is {last}: {last.reason}; prepare "
            "the data set anew, or raise the limit"
        )


def of_the_system(error: Exception) -> bool:
    """Whether the operating system failed, such as a network's file system, and no data is wrong.

    array_record passes on what a call of it said: `pread() failed: Input/output error; ...`.
    Decoders raise an OSError too, but one without a number.
    """
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, MemoryError) or bool(re.match(r"\w+\(\) failed: ", str(error)))


def _nothing(example: BadExample) -> None:
    pass
