"""Tables before they have a form: the terminal, Markdown and HTML show the same words and figures."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from connprobe.model import Interval
from connprobe.report import format as fmt

_DIGITS = 2  # of an uncertainty: more say nothing
_MOST_DECIMALS = 3
_NO_BYTE = 1e-3  # what arithmetic leaves of nothing
_WHOLE_BYTES = 100_000  # up to here the cost of a connection is told to the byte
_METRICS = {
    "rss_bytes": "RSS",
    "pss_bytes": "PSS",
    "uss_bytes": "USS",
    "heap_bytes": "heap",
    "kernel_bytes": "kernel slabs",
    "cgroup_bytes": "cgroup",
    "memory_bytes": "RSS and kernel slabs",
    "fds": "file descriptors",
    "threads": "threads",
    "process_fds": "descriptors of the fullest process",
    "process_fds_grown": "descriptors, growth in one process",
    "files": "open files of the host",
    "host_threads": "threads of the host",
    "pids": "tasks of the cgroup",
    "maps": "memory mappings",
}


class Rows(NamedTuple):
    """The first column and the last are words, those between figures. strong: rows that matter most."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    strong: frozenset[int] = frozenset()

    @property
    def spoken(self) -> bool:
        """Whether the last column says anything."""
        return any(row[-1] for row in self.rows)


def metric_name(metric: str) -> str:
    return _METRICS.get(metric) or metric.removesuffix("_bytes").replace("_", " ")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Memory first, from what is the server's own to what is the host's; what has no place here, last."""
    places = list(_METRICS)
    return sorted(set(metrics), key=lambda it: (places.index(it) if it in places else len(places), it))


def unit_of(metric: str) -> str:
    return "bytes" if metric.endswith("_bytes") else "count"


def amount(value: float | None, unit: str) -> str:
    if unit == "bytes":
        return fmt.nbytes(value)
    return fmt.many(value) if value is not None and abs(value) >= fmt.MANY else fmt.number(value)


def cost(value: float | None, unit: str) -> str:
    """What one connection takes: "4,733 B", "0.05"."""
    if unit == "bytes" and value is not None and 1 <= abs(value) < _WHOLE_BYTES:
        return f"{value:,.0f} B"
    return f"{fmt.number(value)} B" if unit == "bytes" and value and abs(value) < 1 else amount(value, unit)


def between(low: float | None, high: float | None) -> str:
    return f"{fmt.many(low)}{fmt.DASH}{fmt.many(high)}"


def plus_minus(value: Interval | None, unit: str, *, each: bool = False) -> str:
    """A mean and half of its 95 % interval: "83.00 ± 0.83 MB". each: bytes of one connection."""
    if value is None:
        return fmt.DASH
    plain = (cost if each else amount)(value.mean, unit)
    if value.low is None or value.high is None:
        return plain
    half = (value.high - value.low) / 2
    if unit != "bytes":
        return plain if half == 0 else _rounded(value.mean, half)
    mean = value.mean if abs(value.mean) >= _NO_BYTE else 0.0
    _, _, prefix = (cost if each else amount)(max(abs(mean), half), unit).partition(" ")
    scale = 1000.0 ** ("B", "kB", "MB", "GB", "TB", "PB").index(prefix) if prefix else 1.0
    return f"{_rounded(mean / scale, half / scale)} {prefix}".rstrip()


def share(value: Interval | None) -> str:
    """Of one CPU: "11.0 ± 0.3%"."""
    if value is None:
        return fmt.DASH
    if value.low is None or value.high is None:
        return fmt.percent(value.mean)
    return f"{_rounded(value.mean * 100, (value.high - value.low) * 50)}%"


def _rounded(mean: float, half: float) -> str:
    """No more digits of the mean than its uncertainty justifies."""
    if not (math.isfinite(mean) and math.isfinite(half)):
        return fmt.DASH
    if half <= 0:
        return f"{fmt.number(mean)} ± 0"
    decimals = min(_MOST_DECIMALS, max(0, _DIGITS - 1 - math.floor(math.log10(half))))
    least = 10.0**-decimals
    return f"{mean:z,.{decimals}f} ± " + (
        f"{half:,.{decimals}f}" if half >= least / 2 else f"under {least:g}"
    )
