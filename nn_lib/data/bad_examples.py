"""Examples that cannot be read: counted and named once, endured up to a limit."""

import dataclasses
import logging

from nn_lib.checks import UserError

log = logging.getLogger("nn_lib")


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

    def __str__(self) -> str:
        place = f"example {self.index} of {self.split}"
        return f"{self.file_name} ({place})" if self.file_name else place


class BadExamples:
    """Those that this process has met, over all splits of a data set.

    Attributes:
      found: (split, index) -> what is wrong there.
    """

    def __init__(self, name: str, limit: int):
        """`limit` is how many there may be in the data set called `name`."""
        self.name, self.limit = name, limit
        self.found: dict[tuple[str, int], BadExample] = {}

    def add(self, examples) -> None:
        """Counts and reports those that are new.

        Raises:
          UserError: there are more than the limit; it names the last.
        """
        for bad in examples:
            if (bad.split, bad.index) in self.found:
                continue
            self.found[bad.split, bad.index] = bad
            if len(self.found) > self.limit:
                raise self.too_many(bad)
            log.warning("%s: %s cannot be decoded and is skipped: %s", self.name, bad, bad.reason)

    def too_many(self, last: BadExample) -> UserError:
        """The error that ends a run."""
        return UserError(
            f"too many examples of data set {self.name!r} cannot be decoded "
            f"(data.max_bad_examples is {self.limit}); the last is {last}: {last.reason}; prepare "
            "the data set anew, or raise the limit"
        )
