"""The end of a run as a person reads it: the answer in one sentence, then the figures behind it,
what failed with whose side it is and what to change, and what is not known and why.
"""

from rich.console import Console
from rich.text import Text

from connprobe.model import RunRecord
from connprobe.plan.advice import Advice, advice
from connprobe.report import format as fmt
from connprobe.report.ending import news, render_ending
from connprobe.report.kernel import render_kernel
from connprobe.report.layout import Page
from connprobe.report.limits import render_limits
from connprobe.report.loadrows import load_sentence
from connprobe.report.rows import Rows, cost
from connprobe.report.verdicts import render_verdicts

_PROTOCOLS = {"ws": "WebSocket", "http": "HTTP", "tcp": "TCP"}
_DETAILS_SHOWN = 5
_DETAIL_LENGTH = 120


def render_summary(
    record: RunRecord, console: Console, *, results: str | None = None, report: str | None = None
) -> None:
    """Prints `record` on `console` (stdout); the directory of the run and its report.html are shown last."""
    page = Page(console)
    _headline(record, page)
    _connections(record, page)
    render_causes(record, page)
    render_memory(record, page)
    render_kernel(record, page)
    render_verdicts(record.verdicts, page)
    if record.limits:
        page.console.print()
        render_limits(record.limits, record.headline, record.held, page)
    render_ending(news(record), page, results=results, report=report)


def render_causes(record: RunRecord, page: Page) -> None:
    """What failed or was lost, why, and what to change."""
    _causes(record, page, "Failed: never established", record.failures, established=False)
    _causes(record, page, "Dropped: established, then lost", record.drops, established=True)


def headline(record: RunRecord) -> str:
    """The run in one sentence."""
    kind = _PROTOCOLS[record.request.protocol] + (" over TLS" if record.request.tls else "")
    if record.command == "load":
        return load_sentence(record, kind)
    noun = "connection" if record.requested == 1 else "connections"
    stayed = f" for {fmt.duration(record.hold_s)}"
    if record.command == "limit":
        trials = len(record.trials)
        stayed = f" in the last of {trials} trials" if trials > 1 else ""
    share = f"{fmt.count(record.held)} of {fmt.count(record.requested)} {kind} {noun}"
    sentence = (
        f"{share} to {record.target}{stayed}; "
        f"{fmt.count(record.failed)} failed, {fmt.count(record.dropped)} dropped."
    )
    match record.outcome:
        case "interrupted" if record.command == "hold" and not record.hold_s:
            return f"Interrupted in the ramp: {share} to {record.target} were open, not checked."
        case "interrupted":
            return f"Interrupted. Held {sentence}"
        case "failed":
            return f"The run failed. Held {sentence}"
        case _:
            return f"Held {sentence}"


def _headline(record: RunRecord, page: Page) -> None:
    whole = record.held >= record.requested and not record.failed and not record.dropped
    style = "bold green" if whole else "bold red" if record.outcome in ("failed", "missed") else "bold yellow"
    if page.console.is_terminal:
        page.paragraph(headline(record), style)
    else:
        page.line(headline(record))  # one line, for grep


def _checked(record: RunRecord) -> str:
    """How it was seen that they are alive. A run cut short never reached the check."""
    if (reason := record.unknown.get("held")) is not None:
        return reason
    if record.outcome in ("interrupted", "failed"):
        return "as last counted, without the check at the end"
    if record.request.protocol == "ws":
        return "each answered a ping with its pong in the last check"
    return "no end of file and no reset was pending in the last check"


def _connections(record: RunRecord, page: Page) -> None:
    rows: list[tuple[str | Text, ...]] = [
        ("asked", fmt.count(record.requested), ""),
        (
            "held at the end",
            page.text(fmt.count(record.held), "bold"),
            _checked(record) if record.held else "",
        ),
        ("failed", _alarm(record.failed, page), ""),
        ("dropped", _alarm(record.dropped, page), ""),
    ]
    if record.not_attempted:
        rows.append(("not attempted", fmt.count(record.not_attempted), "the run ended before their turn"))
    ramp = f"{fmt.rate(record.connections_per_s)} on average"
    rows.append(("ramp", fmt.duration(record.ramp_s), ramp))
    if (pings := record.pings) is not None:
        rows.append(("pings", fmt.count(pings.sent), f"{fmt.count(pings.answered)} answered"))
    if record.tls_resumed is not None:
        rows.append(("TLS resumed", fmt.count(record.tls_resumed), "handshakes took up an earlier session"))
    if (again := record.reconnects) is not None:
        rest = f"{fmt.count(again.successes)} succeeded, {fmt.count(again.given_up)} given up"
        rows.append(("reconnects", fmt.count(again.attempts), rest))
    page.heading("Connections")
    page.table(rows)
    page.heading("Handshake")
    if (took := record.handshake_ms) is None:
        page.table([(fmt.DASH, _why(record, "handshake_ms", "no connection was established"))])
        return
    figures = [fmt.ms(value) for value in (took.mean, took.p50, took.p90, took.p99, took.max)]
    page.table([[*figures, ""]], left=0, header=("mean", "p50", "p90", "p99", "max", ""))


def _alarm(number: int, page: Page) -> Text:
    return page.text(fmt.count(number), "bold red" if number else "")


def _why(record: RunRecord, path: str, otherwise: str) -> str:
    """The reason of an unknown figure: under its own path, or under that of what contains it."""
    while path:
        if path in record.unknown:
            return record.unknown[path]
        path = path.rpartition(".")[0]
    return otherwise


def _causes(
    record: RunRecord, page: Page, title: str, by_cause: dict[str, int], *, established: bool
) -> None:
    found = sorted(((cause, number) for cause, number in by_cause.items() if number), key=lambda it: -it[1])
    if not found:
        return
    page.heading(title)
    for cause, number in found:
        page.line("  ", (fmt.count(number), "bold red"), "  ", (cause, "bold"))
        details = (record.drop_details if established else record.failure_details).get(cause, {})
        for said, seen in _advised(record.command, cause, details, established).items():
            for detail, times in seen[:_DETAILS_SHOWN]:
                text = page.text(detail, limit=_DETAIL_LENGTH).plain
                page.paragraph(f"{fmt.count(times)} \u00d7 {text}", indent=6)
            if len(seen) > _DETAILS_SHOWN:
                page.paragraph(
                    f"and {fmt.count(len(seen) - _DETAILS_SHOWN)} more kinds, in run.json", indent=6
                )
            page.paragraph(f"{said.meaning} ({said.side} side)", indent=6)
            page.paragraph(f"fix: {said.fix}", "green", indent=6)


def _advised(
    command: str, cause: str, details: dict[str, int], established: bool
) -> dict[Advice, list[tuple[str, int]]]:
    """What to say on a cause, each with the details that lead to it, the most frequent first."""
    if not details:
        return {advice(cause, established, command=command): []}
    said: dict[Advice, list[tuple[str, int]]] = {}
    for detail, times in sorted(details.items(), key=lambda it: -it[1]):
        said.setdefault(advice(cause, established, detail, command=command), []).append((detail, times))
    return said


def render_memory(record: RunRecord, page: Page) -> None:
    client, server = record.client, record.server
    page.heading("Memory and CPU")
    header = ("", "start", "peak", "idle", "per connection", "CPU", "")
    rows: list[tuple[str, ...]] = []
    if server is None:
        why = _why(record, "server", "its processes are not on this host, or were not found")
        rows.append(("server", *[fmt.DASH] * 5, why))
    else:
        of = _processes(len(server.pids)) + ("" if server.complete else ", not all readable")
        sizes = (server.start_rss_bytes, server.peak_rss_bytes, server.idle_rss_bytes)
        per_connection = fmt.nbytes(server.bytes_per_connection)
        row = (*map(fmt.nbytes, sizes), per_connection, fmt.duration(server.cpu_s), f"RSS, {of}")
        rows.append(("server", *row))
    # PSS is read once, on the plateau: it costs a walk over every mapping.
    pss = (fmt.DASH, fmt.DASH, fmt.nbytes(client.pss_bytes), fmt.nbytes(client.pss_bytes_per_connection))
    workers = f"PSS, {client.workers} worker{'' if client.workers == 1 else 's'}"
    if (client.worker_processes or client.workers) < client.workers:
        workers += f" in {_processes(client.worker_processes or 0)}"
    rows.append(("client", *pss, fmt.duration(client.cpu_s), workers))
    if record.kernel is not None:
        figure = fmt.nbytes(record.kernel.bytes_per_connection)
        source = "slabs" if record.kernel.complete else "slabs, not complete: see below"
        rows.append(("kernel", fmt.DASH, fmt.DASH, fmt.DASH, figure, fmt.DASH, source))
    watch = record.observer
    observed = f"PSS, {fmt.count(watch.samples)} samples, {fmt.count(watch.late_samples)} late"
    size, cpu = fmt.nbytes(watch.pss_bytes), fmt.duration(watch.cpu_s)
    rows.append(("watching", fmt.DASH, fmt.DASH, size, fmt.DASH, cpu, observed))
    page.figures(Rows(header, rows))
    if (said := user_space(record)) is not None:
        page.paragraph(said, indent=2)


def user_space(record: RunRecord) -> str | None:
    """What a TLS connection takes of both programs' own memory: there it is most of all. None: not known."""
    client, server = record.client.pss_bytes_per_connection, record.server
    if record.request.tls is None or client is None:
        return None
    own = server.pss_bytes_per_connection if server is not None else None
    at_server = f"{cost(own, 'bytes')} in the server" if own is not None else "in the server it is not known"
    return f"User space of a TLS connection (PSS): {cost(client, 'bytes')} in connprobe, {at_server}."


def _processes(number: int) -> str:
    return f"{number} process" if number == 1 else f"{number} processes"
