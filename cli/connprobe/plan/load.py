"""What a load is going to do, in one line, and what its figures are of. Pure."""

from connprobe.causes import WORKER_LOST
from connprobe.model import HoldRequest, LoadFigures, LoadRequest, RunRecord, Verdict

HALF = 0.5  # of a core's time: a worker that takes more keeps some of its connections waiting
SHORT_S = 0.5  # a shorter load is the first connections' mostly


def established(record: RunRecord) -> int:
    """Connections of a load whose handshake was answered, whatever became of them."""
    load = record.load
    return record.dropped + record.held + (load.visited + load.wrong if load is not None else 0)


def measured_bytes(record: RunRecord) -> int:
    """Of them, those whose bytes were read: before they were closed, by a worker that was there to do it."""
    return established(record) - record.held - record.drops.get(WORKER_LOST, 0)


def wrong(protocol: str, number: int) -> str:
    """What is not as it had to be: with HTTP an answer, else an echo."""
    one, more = ("answer", "answers") if protocol == "http" else ("echo", "echoes")
    return f"wrong {one if number == 1 else more}"


def cores(load: LoadFigures) -> float | None:
    """CPU of the workers over the load's time: 1.0 is all that one core has. None: nothing was begun."""
    return load.workers_cpu_s / load.total_s if load.workers_cpu_s is not None and load.total_s else None


def client_verdict(load: LoadFigures, workers: int) -> Verdict | None:
    """Whether the client can have been the limit, by its own CPU. None: it was over too soon to tell."""
    taken = cores(load)
    if taken is None or load.total_s < SHORT_S:
        return None
    whose = "worker" if workers == 1 else "workers"
    took = f"its {whose} took {taken:.0%} of one core's time"
    if taken <= HALF:
        return Verdict(level="good", text=f"The client had time left: {took}, under half.")
    if taken <= HALF * workers:
        return Verdict(
            level="note",
            text=f"The client took its share: {took}, {taken / workers:.0%} each. Where the server is on the "
            "same cores, it had so much less of them.",
        )
    return Verdict(
        level="warning",
        text=f"The client was the limit, or a part of it: {took}"
        + (", over half." if workers == 1 else f", {taken / workers:.0%} each: over half.")
        + " Rate and latencies are in part its own.",
        fix="more --workers where cores are idle, or a client on a host of its own",
    )


def load_note(request: HoldRequest, load: LoadRequest) -> str:
    many = f"{request.count:,} connections in all" if load.counted else "connections one after another"
    at_once = min(request.concurrency, request.count) if load.counted else request.concurrency
    times = "" if load.messages == 1 else "s"
    what = (
        "requests more" if request.protocol == "http" else f"message{times} of {load.message_bytes:,} bytes"
    )
    if request.protocol == "http" and load.messages == 1:
        what = "request more"
    note = f"{many}, at most {at_once:,} open at once, {load.messages:,} {what} on each"
    if request.rate_per_s is not None:
        note += f"; one begins every {1000 / request.rate_per_s:,.3g} ms, whatever became of the others"
    if load.duration_s is not None:
        note += f"; none begins after {load.duration_s:g} s"
    return note
