"""What `--threshold` demands of a load, and whether its record meets it. Pure.

`handshake.p99<50ms`, `connections_per_s>=2000`, `failed<1%`, `total<60s`.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from connprobe.errors import UsageError
from connprobe.model import Distribution, RunRecord, ThresholdFigures
from connprobe.plan.load import established

_FORM = re.compile(
    r"\s*([a-z_]+(?:\.[a-z0-9_]+)?)\s*(<=|>=|<|>)\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|m|h|%)?\s*"
)
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
FIGURES = ("mean", "p50", "p90", "p99", "p999", "max")
TIMES = tuple(f"{name}.{figure}" for name in ("handshake", "message") for figure in FIGURES)
COUNTS = ("failed", "wrong")
METRICS = (*TIMES, "total", "connections_per_s", *COUNTS)
_EXAMPLES = dict.fromkeys(COUNTS, "<1%") | {"total": "<60s", "connections_per_s": ">2000"}
# Where nothing is said of them, one is too many.
UNSAID = ("failed<=0", "wrong<=0")


class Threshold(NamedTuple):
    """`metric` `sign` `bound`: milliseconds for handshake and message, seconds for total; with `share` a
    part of one of all connections."""

    text: str
    metric: str
    sign: str
    bound: float
    share: bool = False


def parse_threshold(text: str) -> Threshold:
    """Raises UsageError, naming what is wrong and what would be right."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise _refused(text, "is not METRIC<VALUE", "'handshake.p99<50ms'")
    metric, sign, number, unit = match.groups()
    if metric not in METRICS:
        raise _refused(text, f"there is no {metric}, but {', '.join(METRICS)}", f"'{_like(metric)}'")
    example = f"'{metric}{_EXAMPLES.get(metric, '<50ms')}'"
    timed = metric in TIMES or metric == "total"
    if timed and unit not in _SECONDS:
        raise _refused(
            text, f"{metric} is a time, and {number}{unit or ''} is none: it needs us, ms or s", example
        )
    if not timed and unit in _SECONDS:
        raise _refused(text, f"{metric} is no time", example)
    if unit == "%" and metric not in COUNTS:
        raise _refused(text, f"{metric} is no share of anything", example)
    bound = float(number)
    if timed:
        bound *= _SECONDS[unit] * (1000 if metric in TIMES else 1)
    elif unit == "%":
        bound /= 100
    return Threshold(text.strip(), metric, sign, bound, unit == "%")


def _like(metric: str) -> str:
    """The known metric that begins as this one does."""
    group = metric.partition(".")[0]
    near = next((it for it in METRICS if it.startswith(group[:4])), "handshake.p99")
    return near + _EXAMPLES.get(near, "<50ms")


def _refused(text: str, why: str, fix: str) -> UsageError:
    return UsageError(f"--threshold {text!r}: {why}", fix=f"--threshold {fix}")


def judge(thresholds: Sequence[str], record: RunRecord) -> tuple[ThresholdFigures, ...]:
    """Each threshold against the record of a load that is over; those that nobody named, where missed."""
    asked = [parse_threshold(text) for text in thresholds]
    named = {it.metric for it in asked}
    unsaid = [it for it in map(parse_threshold, UNSAID) if it.metric not in named]
    found = [_judged(it, record) for it in asked]
    return (*found, *(it for it in (_judged(it, record) for it in unsaid) if not it.met))


def _judged(threshold: Threshold, record: RunRecord) -> ThresholdFigures:
    value = measured(threshold.metric, record)
    compared = value
    if threshold.share and value is not None:
        compared = value / max(1, _whole(threshold.metric, record))
    met = compared is not None and _OPERATORS[threshold.sign](compared, threshold.bound)
    return ThresholdFigures(threshold=threshold.text, value=value, met=met)


def measured(metric: str, record: RunRecord) -> float | None:
    """What this record says of a metric, in ms, s, a second, or a count; None: it was not measured."""
    load = record.load
    if load is None:
        return None
    name, _, figure = metric.partition(".")
    if figure:
        found: Distribution | None = record.handshake_ms if name == "handshake" else record.message_ms
        value: float | None = None if found is None else getattr(found, figure)
        return value
    values = {
        "total": load.total_s,
        "connections_per_s": record.connections_per_s,
        "failed": record.failed + record.dropped,
        "wrong": load.wrong,
    }
    return values[metric]


def _whole(metric: str, record: RunRecord) -> int:
    if metric == "wrong":
        return established(record)
    return record.requested - record.not_attempted
