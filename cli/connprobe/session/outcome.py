"""What a run saw, and the record that is made of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from signal import Signals

from msgspec.structs import replace

from connprobe.engine.counters import Totals, read_handshakes
from connprobe.fleet.shared import SharedTable
from connprobe.model import (
    SCHEMA,
    ClientFigures,
    Distribution,
    HoldPlan,
    HoldRequest,
    HostRecord,
    KernelFigures,
    Limit,
    ListenerFigures,
    NetworkFigures,
    ObserverFigures,
    Pings,
    ProbeUse,
    Reconnects,
    RunRecord,
    ServerFigures,
    ServerUse,
    Target,
    Verdict,
)
from connprobe.plan.bottleneck import CpuUse, bottleneck, queue_verdict
from connprobe.plan.distribution import distribution
from connprobe.plan.limits.traffic import burst_limits
from connprobe.session.costing import Costed
from connprobe.session.kernel.kernelview import KernelView, reasons
from connprobe.version import __version__

Details = dict[str, dict[str, int]]
SILENT = "not checked: a worker did not answer"
CREDENTIAL = r"authorization|cookie|key|token|secret|password|signature"

_NOT_YET = {
    "limits": "this version extrapolates limits from connections that are held alone",
    "runtime": "this version asks no runtime for its heap",
    "server.messaging_rss_bytes": "this version's hold sends no messages",
}


@dataclass
class Seen:
    """Filled in as a run goes on; whatever an interruption left out stays None."""

    started_at: str
    what: str = "ramp"  # what the CPU was measured over
    behind: bool = False  # the rate that was asked was not kept
    totals: Totals | None = None
    table: SharedTable | None = None
    ramp_s: float = 0.0
    hold_s: float = 0.0
    checked: bool = False
    gave_up: bool = False
    lost: dict[int, str] = field(default_factory=dict)
    worker_processes: int | None = None  # that were started
    servers_lost: tuple[str, ...] = ()
    failure_details: dict[int, Details] = field(default_factory=dict)  # by worker
    drop_details: dict[int, Details] = field(default_factory=dict)
    not_undone: tuple[str, ...] = ()
    made_otherwise: tuple[str, ...] = ()  # sysctls that the kernel did not take as they were given
    workers_pss_bytes: int | None = None
    client_pss_bytes: int | None = None
    workers_cpu_s: float | None = None
    server_start_pss_bytes: int | None = None
    server_pss_bytes: int | None = None  # on the idle plateau
    measured_at: int = 0  # connections held when memory was read
    observer_cpu_s: float = 0.0
    observer_pss_bytes: int | None = None
    samples: int = 0
    late_samples: int = 0
    server_start: ServerUse | None = None
    server_idle: ServerUse | None = None
    server_last: ServerUse | None = None
    server_peak_rss_bytes: int = 0
    cpu: CpuUse | None = None  # of the ramp
    kernel: KernelFigures | None = None
    costed: Costed | None = None
    network: NetworkFigures | None = None
    listeners: tuple[ListenerFigures, ...] = ()
    probes: tuple[ProbeUse, ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)

    def take_kernel(self, view: KernelView) -> None:
        self.listeners, self.network, self.probes = view.listeners(), view.network(), view.probes()
        if self.network is None:
            self.unknown["network"] = "no eBPF: see observer.probes"
        if not view.has_listeners:
            self.unknown["listeners"] = "the target's listener is not in this network namespace"
        self.unknown |= reasons(self.listeners, self.probes)


def build_record(
    request: HoldRequest,
    plan: HoldPlan,
    target: Target,
    host: HostRecord,
    seen: Seen,
    interrupted_by: Signals | None,
) -> RunRecord:
    """The record of a run that is over. Figures that were not taken are None and named in `unknown`."""
    totals = seen.totals or Totals()
    unknown = {**_NOT_YET, **seen.unknown}
    costed, bursts = seen.costed or Costed(), list[Limit]()
    if seen.costed is not None:
        del unknown["limits"]
        unknown |= costed.unknown
        bursts = burst_limits(seen.listeners, totals.established / seen.ramp_s if seen.ramp_s else None)
    if not seen.checked:
        unknown["held"] = "not checked: the run was interrupted" if interrupted_by else SILENT
    threshold = plan.count if request.fail_under is None else request.fail_under
    missed = totals.held < threshold or bool(seen.lost) or not seen.checked
    if seen.kernel is None:
        unknown.setdefault("kernel", "read at the end of the hold, which was not reached with any connection")
    record = RunRecord(
        schema=SCHEMA,
        connprobe=__version__,
        command="hold",
        outcome="interrupted" if interrupted_by else "missed" if missed else "done",
        started_at=seen.started_at,
        target=target.label,
        request=replace(request, headers=tuple(without_secrets(request.headers))),
        requested=plan.count,
        held=totals.held,
        failed=totals.failed,
        failures=totals.failures,
        dropped=totals.dropped,
        drops=totals.drops,
        not_attempted=max(0, plan.count - totals.established - totals.failed),
        failure_details=_merge(seen.failure_details),
        drop_details=_merge(seen.drop_details),
        ramp_s=round(seen.ramp_s, 3),
        hold_s=round(seen.hold_s, 3),
        connections_per_s=round(totals.established / seen.ramp_s, 1) if seen.ramp_s else 0.0,
        handshake_ms=_handshakes(seen.table, totals),
        reconnects=Reconnects(
            attempts=totals.reconnect_attempts, successes=totals.reconnected, given_up=totals.given_up
        )
        if request.reconnect
        else None,
        tls_resumed=totals.resumed if request.tls is not None and request.tls.resume else None,
        pings=Pings(sent=totals.pings, answered=totals.pongs) if request.protocol == "ws" else None,
        client=_client(plan, seen, totals, unknown),
        server=_server(seen, totals, unknown),
        runtime=None,
        kernel=seen.kernel,
        network=seen.network,
        listeners=seen.listeners,
        limits=(*costed.limits, *bursts),
        headline=costed.headline,
        growth=costed.growth,
        verified=None,
        observer=ObserverFigures(
            cpu_s=round(seen.observer_cpu_s, 3),
            pss_bytes=seen.observer_pss_bytes,
            probes=seen.probes,
            samples=seen.samples,
            late_samples=seen.late_samples,
        ),
        host=host,
        plan=plan,
        verdicts=tuple(_verdicts(request, seen, totals, threshold, interrupted_by is not None)),
        unknown=unknown,
    )
    return record


def without_secrets(headers: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    """Run records are kept and passed on: what may be a credential is not in them."""
    for name, value in headers:
        yield name, "(not recorded)" if re.search(CREDENTIAL, name.lower()) else value


def _merge(parts: dict[int, Details]) -> Details:
    merged: Details = {}
    for part in parts.values():
        for cause, details in part.items():
            counted = merged.setdefault(cause, {})
            for detail, count in details.items():
                counted[detail] = counted.get(detail, 0) + count
    return merged


def _handshakes(table: SharedTable | None, totals: Totals) -> Distribution | None:
    counts = read_handshakes(table) if table is not None else []
    return distribution(counts, totals.handshake_sum_us, totals.handshake_max_us)


def _client(plan: HoldPlan, seen: Seen, totals: Totals, unknown: dict[str, str]) -> ClientFigures:
    if seen.client_pss_bytes is None:
        for figure in ("client.pss_bytes", "client.cpu_s", "observer.pss_bytes"):
            unknown[figure] = "read at the end of the hold, which was not reached"

    def each(total: int | None) -> float | None:
        return round(total / seen.measured_at, 1) if total is not None and seen.measured_at else None

    return ClientFigures(
        workers=plan.workers,
        pss_bytes=seen.client_pss_bytes,
        pss_bytes_per_connection=each(seen.client_pss_bytes),
        workers_pss_bytes_per_connection=each(seen.workers_pss_bytes),
        cpu_s=None if seen.workers_cpu_s is None else round(seen.workers_cpu_s + seen.observer_cpu_s, 3),
        opened_by_io_uring=totals.ring_opened,
        worker_processes=seen.worker_processes,
    )


def _server(seen: Seen, totals: Totals, unknown: dict[str, str]) -> ServerFigures | None:
    start, last, idle = seen.server_start, seen.server_last, seen.server_idle
    if start is None or last is None:
        unknown.setdefault("server", "its processes could not be read")
        return None
    if idle is None:
        unknown["server.idle_rss_bytes"] = "there was no idle plateau, or no server left on it"
    growth = None
    if idle is not None and seen.measured_at:
        growth = round((idle.rss_bytes - start.rss_bytes) / seen.measured_at, 1)
    if growth is not None and growth < 0:
        growth = None
        unknown["server.bytes_per_connection"] = "its memory shrank: too few connections to tell"
    own = None
    if seen.server_pss_bytes is None or seen.server_start_pss_bytes is None or not seen.measured_at:
        unknown["server.pss_bytes_per_connection"] = "its PSS is read on the idle plateau of a hold, as root"
    elif (grown := seen.server_pss_bytes - seen.server_start_pss_bytes) >= 0:
        own = round(grown / seen.measured_at, 1)
    else:
        unknown["server.pss_bytes_per_connection"] = "its memory shrank: too few connections to tell"
    return ServerFigures(
        pids=last.pids,
        start_rss_bytes=start.rss_bytes,
        peak_rss_bytes=max(seen.server_peak_rss_bytes, start.rss_bytes),
        idle_rss_bytes=idle.rss_bytes if idle else None,
        messaging_rss_bytes=None,
        cpu_s=round(last.cpu_s - start.cpu_s, 3),
        bytes_per_connection=growth,
        pss_bytes_per_connection=own,
        threads=last.threads,
        fds=last.fds,
        complete=start.complete and last.complete,
    )


def _verdicts(
    request: HoldRequest, seen: Seen, totals: Totals, threshold: int, interrupted: bool
) -> list[Verdict]:
    verdicts = []
    if not seen.checked and not interrupted and totals.held:
        verdicts.append(Verdict(level="bad", text=f"What is held was {SILENT}."))
    if request.fail_under is not None and totals.held < threshold:
        verdicts.append(
            Verdict(level="bad", text=f"Held {totals.held:,}: under the threshold of {threshold:,}.")
        )
    if seen.gave_up:
        verdicts.append(
            Verdict(
                level="bad",
                text=f"Gave up: the first {totals.failed:,} connections failed and not one succeeded.",
                fix="see the causes above; the rest was not tried",
            )
        )
    for how in dict.fromkeys(seen.lost.values()):
        lost = sorted(index for index, ending in seen.lost.items() if ending == how)
        one = len(lost) == 1
        who = f"Worker {lost[0]} was" if one else f"Workers {', '.join(map(str, lost))} were"
        whose = "Its" if one else "Their"
        verdicts.append(
            Verdict(
                level="bad",
                text=f"{who} lost in the run: {how}. {whose} connections count as worker_lost.",
                fix="dmesg | grep -i oom shows whether the kernel killed it",
            )
        )
    for how in seen.servers_lost:
        verdicts.append(Verdict(level="bad", text=f"A process of the embedded server {how}."))
    if seen.late_samples > max(1, seen.samples // 10):
        verdicts.append(
            Verdict(
                level="warning",
                text=f"{seen.late_samples} of {seen.samples} samples were late: this host was too busy.",
            )
        )
    if seen.cpu is not None:
        overflows = sum(each.overflows or 0 for each in seen.listeners)
        rated = request.rate_per_s is not None and not seen.behind
        found = [bottleneck(seen.cpu, rated=rated, overflows=overflows, what=seen.what)]
        found += [queue_verdict(each, seen.ramp_s, ours=True, what=seen.what) for each in seen.listeners]
        verdicts += [verdict for verdict in found if verdict is not None]
    for what in seen.made_otherwise:
        verdicts.append(Verdict(level="note", text=f"--sysctl: {what}"))
    for what in seen.not_undone:
        verdicts.append(Verdict(level="bad", text=f"Not undone: {what}", fix="connprobe restore"))
    return verdicts
