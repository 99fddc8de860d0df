"""What a load is going to do, in one line, and what its figures are of. Pure."""

from connprobe.causes import WORKER_LOST
from connprobe.model import HoldRequest, LoadRequest, RunRecord


def established(record: RunRecord) -> int:
    """Connections of a load whose handshake was answered, whatever became of them."""
    load = record.load
    return record.dropped + record.held + (load.visited + load.wrong if load is not None else 0)


def measured_bytes(record: RunRecord) -> int:
    """Of them, those whose bytes were read: before they were closed, by a worker that was there to do it."""
    return established(record) - record.held - record.drops.get(WORKER_LOST, 0)


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
