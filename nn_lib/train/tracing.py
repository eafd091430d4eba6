"""`--profile`: a trace of some steps, and which operations they spent their time in."""

import collections
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from nn_lib.checks import UserError

SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a trace: from `start` on, `stop` not among them."""

    start: int
    stop: int

    @classmethod
    def parse(cls, text: str) -> "Steps":
        """Of 'START:STOP'; raises UserError."""
        found = re.fullmatch(r"(\d+):(\d+)", text)
        steps = cls(*map(int, found.groups())) if found else None
        if steps is None or not 0 < steps.start < steps.stop:
            raise UserError(
                f"profile expects START:STOP, two steps of which the first is above 0 and below "
                f"the second, got {text!r}; for example 100:110"
            )
        return steps


@dataclasses.dataclass
class Tracer:
    """Traces the steps of a loop that runs over `traced(...)`.

    Attributes:
      steps: which; None traces nothing.
      folder: what the trace is written to, for TensorBoard's profile plugin or Perfetto.
      say: gets the table of the costliest operations.
      program: the text of the compiled step, whose operations know where they come from.
    """

    steps: Steps | None
    folder: Path
    say: Callable[[str], None]
    program: Callable[[Any], str]
    latest: Any = None

    def traced(self, steps: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The same (step, batch), with a trace begun and ended between them."""
        if self.steps is None:
            yield from steps
            return
        start, stop = self.steps.start, self.steps.stop
        tracing, last, began, example = False, 0, 0.0, None
        try:
            for step, batch in steps:
                if tracing and step == stop:
                    self._end(range(start, step), began, example)
                    tracing = False
                elif step == start:
                    jax.block_until_ready(self.latest)
                    options = jax.profiler.ProfileOptions()
                    options.python_tracer_level = 0
                    jax.profiler.start_trace(self.folder, profiler_options=options)
                    tracing, began, example = True, time.monotonic(), batch
                last = step
                yield step, batch
        finally:
            if tracing:
                self._end(range(start, last + 1), began, example)

    def _end(self, steps: range, began: float, example: Any) -> None:
        jax.block_until_ready(self.latest)
        seconds = time.monotonic() - began
        jax.profiler.stop_trace()
        file = max(self.folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
        found = operations(file)
        names = origins(self.program(example)) if found.programs == 1 else {}
        table = costs_table(found.seconds, len(steps), names)
        each = 1e3 * seconds / len(steps)
        self.say(
            f"{len(steps)} steps from step {steps.start:,} on, {each:.3f} ms each; the trace is in "
            f"{self.folder}\n{table}"
        )


@dataclasses.dataclass
class Operations:
    """What a trace says of XLA's programs.

    Attributes:
      seconds: of every operation, without those that it calls, of all devices and threads together
        (so they may add up to more than the time that passed). Those of other programs than the
        one that took longest are named `program/operation`.
      programs: how many programs of that one's name there are: as many as shapes of batches.
    """

    seconds: dict[str, float]
    programs: int


def operations(file: Path) -> Operations:
    """Reads a trace."""
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    numbers: dict[str, set] = collections.defaultdict(set)
    planes = list(ProfileData.from_file(str(file)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        lines = list(plane.lines)
        named = [line for line in lines if line.name == "XLA Ops"]  # on a TPU
        for line in named or lines:
            events = []
            for event in line.events:
                facts = dict(event.stats)
                name = facts.get("hlo_op") or (named and event.name.split(" = ")[0].lstrip("%"))
                if name:
                    module = str(facts.get("hlo_module", ""))
                    numbers[module].add(facts.get("program_id"))
                    begin, span = event.start_ns, event.duration_ns
                    events.append((begin, -span, (module, str(name))))
            for key, spent in _own_seconds(events).items():
                seconds[key] += spent
    totals: dict[str, float] = collections.defaultdict(float)
    for (module, _), spent in seconds.items():
        totals[module] += spent
    main = max(totals, key=totals.__getitem__, default="")
    found = {n if module == main else f"{module}/{n}": s for (module, n), s in seconds.items()}
    return Operations(found, len(numbers[main]))


def _own_seconds(events: list[tuple[float, float, tuple]]) -> dict[tuple, float]:
    """Of (start, -duration, name) on one thread: each one's time without what lies within it."""
    found: dict[tuple, float] = collections.defaultdict(float)
    open_until: list[tuple[float, tuple]] = []
    for start, minus_duration, name in sorted(events):
        while open_until and open_until[-1][0] <= start:
            open_until.pop()
        if open_until:
            found[open_until[-1][1]] += minus_duration / 1e9
        found[name] -= minus_duration / 1e9
        open_until.append((start - minus_duration, name))
    return found


def origins(program: str) -> dict[str, str]:
    """What each operation of a compiled program comes from: `jvp(MLP)/Dense_0/dot_general`."""
    found = re.findall(r'^ *(?:ROOT )?%(\S+) = .*?op_name="(?:jit\(\w+\)/)*([^"]*)"', program, re.M)
    return {name: origin.replace("/closed_call", "") for name, origin in found}


def costs_table(seconds: dict[str, float], steps: int, origins: dict[str, str]) -> str:
    """The costliest operations: their share of the time of all, their time a step, their name."""
    total = sum(seconds.values())
    if not total:
        return "the trace names no operation of a program on this device"
    lines = [f"{'share':>7}  {'ms a step':>9}  operation"]
    costliest = sorted(seconds.items(), key=lambda pair: -pair[1])
    for name, spent in costliest[:SHOWN]:
        origin = f"  {origins[name]}" if name in origins else ""
        lines.append(f"{spent / total:>7.1%}  {1e3 * spent / steps:>9.3f}  {name}{origin}")
    rest = sum(spent for _, spent in costliest[SHOWN:])
    lines.append(
        f"{rest / total:>7.1%}  {1e3 * rest / steps:>9.3f}  {len(costliest[SHOWN:])} others"
    )
    return "\n".join(lines)


def still_ahead(steps: Steps | None, start: int, num_steps: int) -> bool:
    """Whether a run from `start` on can trace these steps; the same command again may be past them.

    Raises:
      UserError: they lie beyond its end.
    """
    if steps and steps.start > num_steps:
        raise UserError(
            f"profile from step {steps.start} on is not possible: the run ends at step {num_steps}"
        )
    return steps is not None and steps.start > start
