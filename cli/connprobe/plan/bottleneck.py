"""What a ramp waited for, and whether the accept queue overflowed: figures in, one sentence out."""

from typing import NamedTuple

from connprobe.model import ListenerFigures, Verdict

BUSY = 0.9  # of a CPU, or of all: nothing is to be had beyond
OTHERS = 0.15  # of all: that much of other processes' doing spoils a measurement
_QUIET = "measure on a host that does nothing else: top shows who does"
SHORT_S = 0.5  # of CPU time counted in ticks of 10 ms: a shorter ramp tells nothing


class CpuUse(NamedTuple):
    """CPU seconds in the ramp. A process that is the busiest of its kind is given as its share of one CPU.

    user: of the processes' own code. kernel: system calls and softirqs of the whole machine.
    """

    ramp_s: float
    cpus: int
    idle_s: float
    kernel_s: float
    client_user_s: float
    server_user_s: float | None  # None: not on this host, or not readable
    busiest_worker: float
    busiest_server: float | None


def bottleneck(use: CpuUse, *, rated: bool, overflows: int | None, what: str = "ramp") -> Verdict | None:
    """Was client, server or kernel the bottleneck of the ramp (or `what` it was)? None: it was over too soon
    to tell."""
    total = use.ramp_s * use.cpus
    if use.ramp_s < SHORT_S:
        return None
    busy = max(0.0, 1 - use.idle_s / total)
    parts = {"the kernel": use.kernel_s, "connprobe": use.client_user_s}
    if use.server_user_s is not None:
        parts["the server"] = use.server_user_s
    others = busy - sum(parts.values()) / total
    shares = ", ".join(
        f"{name} {seconds / total:.0%}" for name, seconds in sorted(parts.items(), key=lambda part: -part[1])
    )
    full = busy >= BUSY
    if rated:
        spoilt = full and others >= OTHERS
        return Verdict(
            level="warning" if spoilt else "note",
            text=f"The {what} went at the rate asked; CPU was {busy:.0%} busy."
            + (f" Other processes took {others:.0%}: figures are of a busy machine." if spoilt else ""),
            fix=_QUIET if spoilt else None,
        )
    if full and others > busy / 2:
        among = "" if use.server_user_s is not None else ", the server perhaps among them"
        return Verdict(
            level="warning",
            text=f"Other processes kept the CPUs busy: they took {others:.0%} of {use.cpus}{among} "
            f"({shares}). What bound the {what} cannot be told: figures are of a busy machine.",
            fix=_QUIET,
        )
    if full:
        text = f"The {what} was bound by this host's CPU: {busy:.0%} of {use.cpus} busy ({shares})."
        if others >= OTHERS:
            return Verdict(
                level="warning",
                text=f"{text} Other processes took {others:.0%}.",
                fix=_QUIET,
            )
        if use.server_user_s is None:
            return Verdict(level="warning", text=f"{text} The client was the limit, not the server.")
        return Verdict(level="note", text=f"{text} Client and server share it.")
    if use.busiest_server is not None and use.busiest_server >= BUSY:
        return Verdict(
            level="note",
            text=f"The server was the bottleneck: a process of it took {use.busiest_server:.0%} of a CPU.",
            fix="more server processes, each with a listener of its own (SO_REUSEPORT)",
        )
    if use.busiest_worker >= BUSY:
        return Verdict(
            level="warning",
            text="connprobe was the bottleneck: one of its processes took "
            f"{use.busiest_worker:.0%} of a CPU.",
            fix="more --workers",
        )
    if overflows:
        return Verdict(
            level="note", text=f"The {what} waited for the accept queue: dropped SYNs are sent again."
        )
    return Verdict(
        level="note",
        text=f"No CPU was the bottleneck of the {what} ({busy:.0%} busy): it waited for answers.",
        fix="a higher --concurrency",
    )


def queue_verdict(
    listener: ListenerFigures, elapsed_s: float, *, ours: bool, what: str = "ramp"
) -> Verdict | None:
    """Did this listener's accept queue overflow, at what rate, and what was its capacity? None: unknown.

    ours: the load was made by this run, in a ramp (or `what` it was) of elapsed_s.
    """
    if listener.overflows is None:
        return None
    fullest = max(
        (each for each in listener.sockets if each.depth_max is not None and each.capacity),
        key=lambda each: (each.depth_max or 0) / (each.capacity or 1),
        default=None,
    )
    full = ""
    if fullest is not None:
        several = len(listener.sockets) > 1
        queue = f"the fullest of {len(listener.sockets)} queues" if several else "it"
        full = f"; {queue} held {fullest.depth_max:,} of {fullest.capacity:,} at most"
    bound = f" Its bound: {listener.capacity_from}; one more may wait." if listener.capacity_from else ""
    if not listener.overflows:
        return Verdict(
            level="good", text=f"{listener.address}: the accept queue did not overflow{full}.{bound}"
        )
    over = f" over the {what}" if ours else ""
    rate = f", {_rate(listener.overflows / elapsed_s)}{over}" if elapsed_s else ""
    times = "once" if listener.overflows == 1 else f"{listener.overflows:,} times"
    fix = (
        "a larger backlog argument of listen(2), and as large a sysctl net.core.somaxconn; a server that "
        "accepts sooner"
    )
    return Verdict(
        level="warning",
        text=f"{listener.address}: the accept queue overflowed {times}{rate}{full}.{bound}",
        fix=fix + ("; or a lower --rate" if ours else ""),
    )


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.2g}/s"
