"""How far a sweep is: a table that is kept up to date on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table


@dataclass
class SweepProgress:
    """Counts of tasks, shown on stderr while used as a context."""

    title: str
    n_tasks: int
    n_done_before: int = 0
    is_live: bool = True
    """False leaves the terminal to what the tasks say themselves."""
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __post_init__(self) -> None:
        self._n_done = self._n_failed = self._n_running = 0
        self._started = time.monotonic()
        self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> SweepProgress:
        if self._draws:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._draws:
            self._live.stop()  # the last table stays

    @property
    def _draws(self) -> bool:
        return self.is_live and self.console.is_terminal

    def running(self, n: int) -> None:
        """So many are at work."""
        self._n_running = n

    def ended(self, name: str, well: bool) -> None:
        """A task came to its end."""
        self._n_done, self._n_failed = self._n_done + well, self._n_failed + (not well)
        if not self._draws:
            line = f"{self._line()}; {name} {'is done' if well else 'failed'}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def counts(self) -> dict[str, str]:
        """What is shown, by its heading."""
        n_ended = self._n_done + self._n_failed
        n_running = min(self._n_running, self.n_tasks - n_ended)
        return {
            "done": f"{self.n_done_before + self._n_done} of {self.n_done_before + self.n_tasks}",
            "running": str(n_running),
            "failed": str(self._n_failed),
            "waiting": str(self.n_tasks - n_ended - n_running),
            "left": self._time_left(n_ended),
        }

    def _time_left(self, n_ended: int) -> str:
        """As if the rest went at the mean rate so far."""
        if n_ended == self.n_tasks:
            return "none"
        if not n_ended:
            return "unknown"
        minutes = (time.monotonic() - self._started) / n_ended * (self.n_tasks - n_ended) / 60
        return f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 1 else "under 1 min"

    def _table(self) -> Table:
        counts = self.counts()
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for heading in counts:
            table.add_column(heading, justify="right")
        table.add_row(*counts.values())
        return table

    def _line(self) -> str:
        return f"{self.title}: " + ", ".join(f"{value} {heading}" for heading, value in self.counts().items())
