"""The table of a sweep while it runs: redrawn on a terminal, a line per trial elsewhere."""

import sys
import time

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from nn_lib.search.sweep import Plan, Row, ranking, rows_so_far
from nn_lib.search.trials import Store, Trial

SHOWN = 30


class LiveTable:
    """Shows the trials of a plan: what waits, runs, is done or failed, and since when.

    `rows` are those of the trials that are done so far.
    """

    def __init__(self, plan: Plan, store: Store):
        self._plan, self._store = plan, store
        self._trials = plan.all_trials()
        self._began, self._next = time.monotonic(), 0.0
        self.rows = rows_so_far(plan, store)
        self._before = len(self.rows)  # done in an earlier start
        self._live: Live | None = None

    def __enter__(self) -> "LiveTable":
        count = f"{len(self._trials)} trials, {self._before} of them done before"
        print(f"sweep over {', '.join(self._plan.space)}: {count}", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error) -> None:
        self.show([], now=True)
        if self._live is not None:
            self._live.stop()

    def show(self, running: list[Trial], *, now: bool = False) -> bool:
        """Called often; draws once a second, or now. Whether there are new rows."""
        if time.monotonic() < self._next and not now:
            return False
        self._next = time.monotonic() + 1
        known = {(row.trial.name, row.steps) for row in self.rows}
        self.rows = rows_so_far(self._plan, self._store)
        new = [row for row in self.rows if (row.trial.name, row.steps) not in known]
        if self._live is not None:
            self._live.update(self._table(running), refresh=True)
        else:
            for row in new:
                print(self._line(row), file=sys.stderr, flush=True)
        return bool(new)

    def text(self, rows: list[Row]) -> str:
        """The final table, the best first."""
        order = {candidate: place for place, (candidate, _) in enumerate(ranking(self._plan, rows))}
        rows = sorted(rows, key=lambda row: order.get(row.trial.candidate, len(order)))
        table = self._frame("validation " + self._plan.metric.replace("_", " "), "steps", "error")
        for row in rows:
            value = row.outcome.metric(self._plan.metric)
            fields = [str(row.trial.fields[field]) for field in self._columns()]
            shown = "-" if value is None else f"{value:.4f}"
            error = (row.outcome.error or "")[:80]
            table.add_row(*map(escape, (row.trial.name, *fields, shown, f"{row.steps:,}", error)))
        console = Console(width=180)
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _line(self, row: Row) -> str:
        fields = ", ".join(f"{field}={row.trial.fields[field]}" for field in self._columns())
        value = row.outcome.metric(self._plan.metric)
        result = f"failed: {row.outcome.error}"
        if value is not None:
            result = f"{self._plan.metric} {value:.4f} after {row.steps:,} steps"
        return f"trial {row.trial.name} ({fields}): {result}; {self._count()}"

    def _table(self, running: list[Trial]) -> Table:
        table = self._frame("status", self._plan.metric.replace("_", " "))
        now, done = {trial.name for trial in running}, {row.trial.name: row for row in self.rows}
        first = max(0, min(len(done), len(self._trials) - SHOWN))
        for trial in self._trials[first : first + SHOWN]:
            value, status = "", "waits"
            if trial.name in now:
                progress = self._store.progress(trial)
                status = f"step {progress.get('step', 0):,} of {self._plan.steps:,}"
                value = f"loss {progress['loss']:.4g}" if progress.get("loss") else ""
            elif trial.name in done:
                outcome = done[trial.name].outcome
                found = outcome.metric(self._plan.metric)
                status = "failed" if found is None else f"done, {done[trial.name].steps:,} steps"
                value = (outcome.error or "")[:60] if found is None else f"{found:.4f}"
            fields = (str(trial.fields[field]) for field in self._columns())
            table.add_row(*map(escape, (trial.name, *fields, status, value)))
        table.caption = self._count()
        return table

    def _count(self) -> str:
        """How many are done, and about how long the others take."""
        count, all_of_them = len(self.rows), len(self._trials)
        here = count - self._before
        text = f"{count} of {all_of_them} done"
        if here < 1 or count == all_of_them:
            return text
        seconds = (time.monotonic() - self._began) / here * (all_of_them - count)
        return f"{text}, about {seconds:,.0f} s left"

    def _columns(self) -> list[str]:
        return [*self._plan.space, *(["seed"] if self._plan.seeds > 1 else [])]

    def _frame(self, *columns: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("trial", *self._columns(), *columns):
            table.add_column(escape(name), overflow="fold")
        return table
