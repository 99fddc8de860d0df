"""Progress for logs and pipes, where a live view would only leave escape sequences behind."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from connprobe.model import Sample
from connprobe.report import format as fmt

_EVERY_S = 5.0
UNBOUNDED = frozenset({"verify", "drain"})  # what was asked is no bound where it goes on, and after


def over(sample: Sample) -> int:
    """Connections that were established and are not open any more."""
    return sample.established - sample.held


class PlainProgress:
    """One line about every five seconds, and one at each change of phase: for logs and pipes."""

    def __init__(
        self, console: Console, *, asked: int, title: str, hold_s: float | None, stays: bool = True
    ) -> None:
        """stays: False: connections come and go, and those are told that are over."""
        self._console = console
        self._asked = asked
        self._title = title
        self._hold_s, self._stays = hold_s, stays
        self._phase: str | None = None
        self._next_s = 0.0

    def __enter__(self) -> Self:
        goal = f": opening {fmt.count(self._asked)}" if self._asked else ""
        holding = "" if self._hold_s is None else f", holding {fmt.duration(self._hold_s)}"
        self._print(f"{self._title}{goal}{holding}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None

    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None:
        """Prints `sample` if a line is due."""
        if sample.phase == self._phase and sample.at_s < self._next_s:
            return
        self._phase = sample.phase
        self._next_s = sample.at_s + _EVERY_S
        number, what = (sample.held, "held") if self._stays else (over(sample), "over")
        bounded = self._asked and sample.phase not in UNBOUNDED
        asked = f"/{fmt.count(self._asked)}" if bounded else ""
        parts = [
            f"{sample.phase} {fmt.count(number)}{asked} {what}",
            fmt.rate(sample.rate_per_s),
            f"{fmt.count(sum(sample.failures.values()))} failed",
        ]
        if dropped := sum(sample.drops.values()):
            parts.append(f"{fmt.count(dropped)} dropped")
        if sample.handshake_p99_ms is not None:
            parts.append(f"p99 {fmt.ms(sample.handshake_p99_ms)}")
        if sample.server is not None:
            parts.append(f"server {fmt.nbytes(sample.server.rss_bytes)}")
        if sample.kernel is not None and (lost := sum(q.overflows or 0 for q in sample.kernel.queues)):
            parts.append(f"{fmt.count(lost)} accept queue overflows")
        if phase_left_s is not None:
            parts.append(f"{fmt.duration(round(phase_left_s))} left")
        if note:
            parts.append(note)
        self._print(", ".join(parts))

    def _print(self, line: str) -> None:
        text = Text(fmt.printable(line, encoding=self._console.encoding))
        self._console.print(text, soft_wrap=True, highlight=False)
