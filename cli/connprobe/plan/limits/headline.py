"""The limits in one or two sentences: what stops it first, at how many connections, and what comes next."""

import math
from collections.abc import Sequence

from connprobe import causes
from connprobe.model import LeftOut, Limit, Verified
from connprobe.plan.limits.crossing import FAR
from connprobe.plan.limits.limits import MOST
from connprobe.plan.limits.resources import capacity, is_client, name

# They bound bursts and messages, not how many connections are held.
OF_TRAFFIC = frozenset({"accept_queue", "cpu"})


def headline(limits: Sequence[Limit], held: int, *, unread: str | None = None) -> str | None:
    """`limits` as sorted by plan.limits. None: there is none. unread: what else may end first, unmeasured.

    Two whose intervals overlap may bind in either order, which is said. A limit of the client is no limit of
    the server. Traffic's limits (the accept queue, the CPU) count otherwise, and do not come in.
    """
    ours = [limit for limit in limits if limit.resource not in OF_TRAFFIC]
    if not ours:
        return None
    if unread is not None:
        return _at_the_latest(ours, held, unread)
    first, *others = ours
    if is_client(first):
        text = f"This client, not the server, stops at {_about(first)}: {_what(first)}."
        server = next((limit for limit in others if not is_client(limit)), None)
        if server is None:
            return text + _guess(first, held)
        return f"{text} The server would at {_about(server)}: {_what(server)}." + _guess(server, held)
    second = next(iter(others), None)
    if second is not None and second.low <= first.high:
        text = (
            f"This server stops at {_about(first)}: {_what(first)}; or first at {_what(second)}, "
            f"{_about(second, bare=True)}: the two are too close to tell."
        )
        second = next((limit for limit in others[1:] if limit.low > first.high), None)
    else:
        text = f"This server stops at {_about(first)}: {_what(first)}."
    if second is not None:
        side = "the client's " if is_client(second) else ""
        text += f" Next: {side}{name(second)} at {_number(second)}."
    return text + _guess(first, held)


def unread(left_out: Sequence[LeftOut], limits: Sequence[Limit]) -> str | None:
    """What of the server may end before the first of `limits`, as the words for `headline`; None: nothing."""
    first = next((limit.connections for limit in limits if limit.resource not in OF_TRAFFIC), MOST)
    rooms: dict[str, int] = {}
    for each in left_out:
        room = each.not_before or 0
        if not each.never and not is_client(each) and room < first:
            rooms[name(each)] = min(room, rooms.get(name(each), room))
    said = [called + (f" (room for at least {room:,})" if room else "") for called, room in rooms.items()]
    return ", ".join(said) or None


def _at_the_latest(limits: Sequence[Limit], held: int, unread: str) -> str:
    """Not all that can end is known: the first of those that are is an upper bound."""
    first = limits[0]
    who = "client" if is_client(first) else "server"
    text = f"This {who} stops at the latest at {_about(first)}: {_what(first)}.{_guess(first, held)}"
    return f"{text} Not measured, and perhaps sooner: {unread}."


def broke(verified: Verified, limits: Sequence[Limit]) -> str:
    """Of a server that broke before it had the connections to measure with."""
    said = f"It broke at {verified.connections:,} connections: {verified.cause}."
    if verified.resource is None and f", {causes.EOF})" in verified.cause:
        said += " Where it closes those that are idle for long, that is no limit: raise its idle timeout."
    server = next((each for each in limits if each.resource not in OF_TRAFFIC and not is_client(each)), None)
    if server is None or verified.resource == server.resource:
        return said
    return f"{said} By its resources it would end at {_about(server)}: {_what(server)}."


def rounded(limit: Limit) -> tuple[int, int, int]:
    """(connections, low, high) with no more digits than the interval justifies; high MOST: it has no end.

    Each side by its own width. Of the figure itself one digit stays, however wide the interval: it is not 0.
    Where it is the most that is possible it stays as it is.
    """
    below, above = limit.connections - limit.low, limit.high - limit.connections
    if not above:
        unit = _unit(min(below, limit.connections))
        return limit.connections, unit * (limit.low // unit), limit.high
    units = [_unit(min(below or above, limit.connections)), _unit(above)]
    unit = min(units)
    return (
        unit * round(limit.connections / unit),
        units[0] * (limit.low // units[0]),
        MOST if limit.high >= MOST else units[1] * -(-limit.high // units[1]),
    )


def _unit(width: int) -> int:
    return 10 ** math.floor(math.log10(width)) if width >= 1 else 1


def _about(limit: Limit, *, bare: bool = False) -> str:
    number, low, high = rounded(limit)
    connections = "" if bare else " connections"
    if low == high:
        return f"{number:,}{connections}"
    if number == high:
        return f"{number:,}{connections} ({low:,} at the least)"
    return f"about {number:,}{connections} ({low:,} {f'to {high:,}' if high < MOST else 'or more'})"


def _number(limit: Limit) -> str:
    return f"{rounded(limit)[0]:,}"


def _what(limit: Limit) -> str:
    approximate = ", by the memory of the process alone" if limit.approximate else ""
    return f"{name(limit)}, {capacity(limit)}{approximate}"


def _guess(limit: Limit, held: int) -> str:
    if held <= 0 or limit.connections <= FAR * held:
        return ""
    if limit.low == limit.high:
        return f" That is over {FAR} times the {held:,} that were held."
    return f" That is over {FAR} times the {held:,} that were held: a guess."
