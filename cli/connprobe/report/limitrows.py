"""The limits as rows: what each resource is called and whose it is, figures rounded as they deserve."""

from collections.abc import Sequence
from typing import NamedTuple

from connprobe.model import LeftOut, Limit
from connprobe.plan.limits.headline import OF_TRAFFIC, rounded
from connprobe.plan.limits.limits import MOST
from connprobe.plan.limits.resources import capacity, is_client, name
from connprobe.report import format as fmt
from connprobe.report.rows import Rows, amount, between, cost, metric_name

FOLDED_BEYOND = 100  # times the first: nobody gets there
_UNITS = {
    "nofile": ("descriptor", "descriptors"),
    "nr_open": ("descriptor", "descriptors"),
    "file_max": ("file", "files"),
    "epoll_watches": ("watch", "watches"),
    "threads": ("thread", "threads"),
    "conntrack": ("entry", "entries"),
    "server_config": ("connection", "connections"),
    "source_ports": ("port", "ports"),
    "max_map_count": ("mapping", "mappings"),
}


class Shown(NamedTuple):
    """held: of connections held, as sorted. folded: too far away. traffic: those that count otherwise."""

    held: list[Limit]
    folded: list[Limit]
    traffic: list[Limit]


def shown(limits: Sequence[Limit]) -> Shown:
    ours = [limit for limit in limits if limit.resource not in OF_TRAFFIC]
    most = max(1, ours[0].connections) * FOLDED_BEYOND if ours else 0
    return Shown(
        [limit for limit in ours if limit.connections <= most],
        [limit for limit in ours if limit.connections > most],
        [limit for limit in limits if limit.resource in OF_TRAFFIC],
    )


def names(limits: Sequence[Limit]) -> list[str]:
    """Whose it is, where the name alone does not tell."""
    plain = [name(limit) for limit in limits]
    told = []
    for limit, called in zip(limits, plain, strict=True):
        if is_client(limit):
            called = f"the client's {called.removeprefix('the ')}"
        elif limit.resource == "server_config" or plain.count(called) > 1:
            called = f"{called}, {limit.scope}"
        told.append(called)
    return told


def marks(limits: Sequence[Limit]) -> list[str]:
    """What to know at a glance of each limit of connections held; the first of them binds."""
    said: list[str] = []
    server_seen = False
    for index, limit in enumerate(limits):
        words = []
        if index == 0:
            words.append("binds first")
        elif not is_client(limit) and not server_seen:
            words.append("the server's first")
        elif limit.low <= limits[0].high:
            words.append("perhaps first: too close to tell")
        if limit.approximate:
            words.append("approximate")
        server_seen = server_seen or not is_client(limit)
        said.append(", ".join(words))
    return said


def limit_rows(limits: Sequence[Limit]) -> Rows:
    """Of connections held, `limits` as in Shown.held; numbered, so that fixes and notes can refer to them."""
    rows = []
    called = zip(limits, names(limits), marks(limits), strict=True)
    for number, (limit, title, mark) in enumerate(called, 1):
        about = rounded(limit)[0]
        rows.append(
            (
                f"{number}. {title}" + (f" ({mark})" if mark else ""),
                fmt.many(about),
                span(limit),
                limit_capacity(limit),
                amount(limit.used, limit.unit),
                takes(limit),
                origin(limit),
            )
        )
    header = ("", "connections", "95 %", "capacity", "used", "each takes", "from")
    return Rows(header, rows, frozenset({0}))


def traffic_rows(limits: Sequence[Limit], first: int) -> Rows:
    """Of bursts and messages; numbered from `first` on."""
    rows = []
    for number, (limit, title) in enumerate(zip(limits, names(limits), strict=True), first):
        about = rounded(limit)[0]
        rows.append(
            (
                f"{number}. {title}",
                fmt.many(about) + ("/s" if limit.resource == "accept_queue" else ""),
                span(limit),
                limit_capacity(limit),
                amount(limit.used, limit.unit),
                takes(limit),
                origin(limit),
            )
        )
    return Rows(("", "at most", "95 %", "capacity", "used", "each takes", "from"), rows)


def span(limit: Limit) -> str:
    """The interval: a count that is kept to the letter has none, and of a longest stall it is not known."""
    _, low, high = rounded(limit)
    if low == high:
        return "\u2013" if limit.resource == "accept_queue" else "exact"
    return between(low, high) if high < MOST else f"\u2265 {fmt.many(low)}"


def limit_capacity(limit: Limit) -> str:
    if limit.resource == "accept_queue":
        return f"{fmt.many(limit.capacity)} places"
    if limit.resource == "cpu":
        return f"{fmt.number(limit.capacity)} CPU" + ("" if limit.capacity == 1 else "s")
    return capacity(limit) if limit.unit == "bytes" else fmt.many(limit.capacity)


def takes(limit: Limit) -> str:
    """What one connection takes, with its unit; of the accept queue: the stall, of the CPU: time a second."""
    each = limit.per_connection
    if limit.resource == "accept_queue":
        return f"{fmt.ms(each * 1000)} of stall"
    if limit.resource == "cpu":
        return f"{fmt.number(each * 1000)} ms/s"
    if limit.unit == "bytes":
        return cost(each, "bytes")
    one, many = _UNITS.get(limit.resource, ("", ""))
    return f"{fmt.number(each)} {one if each == 1 else many}".rstrip()


def origin(limit: Limit) -> str:
    return ": ".join(it for it in (limit.scope, limit.source) if it)


def notes(limits: Sequence[Limit]) -> list[tuple[str, str]]:
    """(numbers of the rows, what to know), each said once."""
    found: dict[str, list[str]] = {}
    for number, limit in enumerate(limits, 1):
        for part in dict.fromkeys((limit.note or "").split("; ")):
            if part:
                found.setdefault(part, []).append(str(number))
    return [(", ".join(numbers), part) for part, numbers in found.items()]


def not_known(left_out: Sequence[LeftOut], limits: Sequence[Limit]) -> str:
    """What may end and is no limit, in one line: "file descriptors: room for at least 12,000 ...".

    limits: beside them those that have room for far more than the first of them are not worth a word.
    """
    most = min((it.connections for it in limits if it.resource not in OF_TRAFFIC), default=MOST)
    doubtful = [it for it in left_out if not it.never and (it.not_before or 0) <= FOLDED_BEYOND * most]
    plain = [name(each) for each in doubtful]
    said: dict[str, list[str]] = {}
    for each, called in zip(doubtful, plain, strict=True):
        whose = f" ({each.scope})" if plain.count(called) > 1 else ""
        room = f"room for at least {fmt.many(each.not_before)} connections, " if each.not_before else ""
        reason = each.reason
        if each.metric is not None:
            metric = metric_name(each.metric)
            reason = reason.replace(f" ({each.metric})", "" if metric == called else f" ({metric})")
        said.setdefault(f"{room}{reason}", []).append(f"{called}{whose}")
    parts = [f"{', '.join(dict.fromkeys(whose))}: {what}" for what, whose in said.items()]
    return f"not known: {'; '.join(parts)}" if parts else ""


def folded(limits: Sequence[Limit], record: str) -> str:
    """One line for those too far away."""
    if not limits:
        return ""
    least = fmt.many(min(rounded(limit)[0] for limit in limits))
    called = list(dict.fromkeys(names(limits)))
    which = ", ".join(called)
    return f"{len(called)} more beyond {FOLDED_BEYOND} times the first, from {least} on: {which} ({record})"
