"""The table of a sweep while it runs: redrawn on a terminal, a line per trial elsewhere."""

import sys
import time

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from nn_lib.search.sweep import Plan, Row, ranking
from nn_lib.search.trials import Store, Trial

SHOWN = 30


class LiveTable:
    """Shows the trials of a plan: what waits, runs, is done or failed, and since when."""

    def __init__(self, plan: Plan, store: Store):
        self._plan, self._store = plan, store
        self._trials = plan.all_trials()
        self._began, self._next = time.monotonic(), 0.0
        self.done: set[str] = set()
        self._before = self._finished()  # of an earlier start
        self._live: Live | None = None

    def __enter__(self) -> "LiveTable":
        count = f"{len(self._trials)} trials, {len(self._before)} of them done before"
        print(f"sweep over {', '.join(self._plan.space)}: {count}", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error) -> None:
        self.show([], now=True)
        if self._live is not None:
            self._live.stop()

    def show(self, running: list[Trial], *, now: bool = False) -> None:
        """Called often; draws once a second, or now."""
        if time.monotonic() < self._next and not now:
            return
        self._next = time.monotonic() + 1
        finished = self._finished()
        if self._live is not None:
            self._live.update(self._table(finished, running), refresh=True)
            self.done = set(finished)
            return
        for name in [name for name in finished if name not in self.done | set(self._before)]:
            print(self._line(name, finished[name], len(finished)), file=sys.stderr, flush=True)
        self.done = set(finished)

    def text(self, rows: list[Row]) -> str:
        """The final table, the best first."""
        order = {candidate: place for place, (candidate, _) in enumerate(ranking(self._plan, rows))}
        rows = sorted(rows, key=lambda row: order.get(row.trial.candidate, len(order)))
        table = self._frame("validation " + self._plan.metric.replace("_", " "), "steps", "error")
        for row in rows:
            value = row.outcome.metric(self._plan.metric)
            table.add_row(
                row.trial.name,
                *(str(row.trial.fields[field]) for field in self._columns()),
                "-" if value is None else f"{value:.4f}",
                f"{row.steps:,}",
                (row.outcome.error or "")[:80],
            )
        console = Console(width=180)
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _finished(self) -> dict:
        found = {}
        for trial in self._trials:
            for steps in reversed(self._plan.rungs()):
                outcome = self._store.known(trial, steps)
                if outcome is not None:
                    found[trial.name] = outcome
                    break
        return found

    def _line(self, name: str, outcome, count: int) -> str:
        trial = next(trial for trial in self._trials if trial.name == name)
        fields = ", ".join(f"{field}={trial.fields[field]}" for field in self._columns())
        value = outcome.metric(self._plan.metric)
        result = f"failed: {outcome.error}" if value is None else f"{self._plan.metric} {value:.4f}"
        done = f"{count} of {len(self._trials)} done{self._left(count)}"
        return f"trial {name} ({fields}): {result}; {done}"

    def _table(self, finished: dict, running: list[Trial]) -> Table:
        table = self._frame("status", self._plan.metric.replace("_", " "))
        now = {trial.name for trial in running}
        first = max(0, min(len(finished), len(self._trials) - SHOWN))
        for trial in self._trials[first : first + SHOWN]:
            value, status = "", "waits"
            if trial.name in now:
                progress = self._store.progress(trial)
                status = f"step {progress.get('step', 0):,} of {self._plan.steps:,}"
                value = f"loss {progress['loss']:.4g}" if progress.get("loss") else ""
            elif trial.name in finished:
                outcome = finished[trial.name]
                found = outcome.metric(self._plan.metric)
                status = "failed" if found is None else "done"
                value = (outcome.error or "")[:60] if found is None else f"{found:.4f}"
            fields = (str(trial.fields[field]) for field in self._columns())
            table.add_row(trial.name, *fields, status, value)
        table.caption = f"{len(finished)} of {len(self._trials)} done{self._left(len(finished))}"
        return table

    def _left(self, count: int) -> str:
        here = count - len(self._before)
        if here < 1 or count == len(self._trials):
            return ""
        seconds = (time.monotonic() - self._began) / here * (len(self._trials) - count)
        return f", about {seconds:,.0f} s left"

    def _columns(self) -> list[str]:
        return [*self._plan.space, *(["seed"] if self._plan.seeds > 1 else [])]

    def _frame(self, *columns: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("trial", *self._columns(), *columns):
            table.add_column(name, overflow="fold")
        return table
