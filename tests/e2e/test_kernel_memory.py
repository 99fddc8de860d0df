"""Kernel memory of 100,000 real connections, reconciled with what the machine has left."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from connprobe.model import KernelFigures
from connprobe.observe.client import pss_of
from connprobe.observe.slab import read_kernel_memory
from connprobe.observe.sockstat import read_socket_counts
from connprobe.plan.kernelmemory import KernelMemory, Reconciliation, kernel_figures, reconcile
from running import Command, eventually

Start = Callable[..., Command]
COUNT = 100_000
PATIENCE_S = 150.0
ATTEMPTS = 3  # sockets of other tests come and go on the same machine


class Measured(NamedTuple):
    figures: KernelFigures
    reconciled: Reconciliation
    pss_bytes: int  # of all processes of the command, embedded server included
    sockets: int  # that the whole machine had more of


def quiet_reading() -> KernelMemory:
    """Taken when two in a row find about the same memory available: no process starts or ends just now."""
    readings = [read_kernel_memory()]

    def still() -> bool:
        readings.append(read_kernel_memory())
        early, late = (reading.meminfo["MemAvailable"] for reading in readings[-2:])
        return abs(early - late) < 4 << 20

    eventually(still)  # a machine that is never still is measured all the same
    return readings[-1]


def measure(start: Start) -> Measured:
    before, sockets = quiet_reading(), read_socket_counts().alloc
    command = start("hold", "--count", str(COUNT), "--for", "10m")
    assert eventually(lambda: holding(command), PATIENCE_S), command.finish(kill=True)
    after, more = quiet_reading(), read_socket_counts().alloc
    pss = pss_of(command.processes())
    command.interrupt()
    record = command.finish(timeout_s=PATIENCE_S).record
    assert record.failed == 0
    figures, reconciled = kernel_figures(before, after, COUNT, 2), reconcile(before, after)
    assert figures is not None
    assert reconciled is not None
    assert pss is not None
    assert sockets is not None
    assert more is not None
    return Measured(figures, reconciled, pss, more - sockets)


def holding(command: Command) -> bool:
    assert command.process.poll() is None, command.finish()
    assert command.results is not None
    return any(
        '"phase":"hold"' in path.read_text() for path in command.results.glob("*-hold-*/samples.jsonl")
    )


@pytest.mark.timeout(900)
def test_totals_reconcile_with_what_is_left(start: Start) -> None:
    if read_kernel_memory().slabs is None:
        pytest.skip("/proc/slabinfo is for root: sudo .venv/bin/pytest")
    if read_kernel_memory().meminfo["MemAvailable"] < 2 << 30:
        pytest.skip("100,000 connections need 1 GB: free 2 GB of memory")
    for _ in range(ATTEMPTS):
        found = measure(start)
        if abs(found.sockets - 2 * COUNT) < 0.01 * 2 * COUNT:
            break
    else:
        pytest.skip("other sockets were opened or closed on this machine: run this test alone")
    figures, machine = found.figures, found.reconciled

    # Each end is a socket, with inode, file and epoll entry, and no more than one: known, not fitted.
    assert figures.complete, figures.reason
    for name in ("TCP", "sock_inode_cache", "filp"):
        assert figures.objects_per_connection[name] == pytest.approx(2.0, rel=0.02)
    for name, least in (("eventpoll_epi", 1.95), ("tcp_bind2_bucket", 0.95)):
        (shown,) = [each for each in figures.objects_per_connection if name in each.split("+")]
        assert figures.objects_per_connection[shown] >= least

    # What connections took, kernel and processes, against what the machine lost. MemAvailable takes socket
    # inodes and dentries for available; other slabs and other people's processes are taken out.
    assert figures.other_growth_bytes is not None
    kernel = figures.bytes_per_connection * COUNT
    others = machine.user_bytes - found.pss_bytes + machine.kernel_bytes - kernel
    lost = machine.fall_bytes + machine.counted_available_bytes - machine.kept_by_cpus_bytes - others
    assert lost == pytest.approx(kernel + found.pss_bytes, rel=0.1), (found, others)
    assert figures.unexplained_bytes == machine.unexplained_bytes
    # What the objects are said to cost against the pages that their slabs took, where sockets alone use them.
    for name in ("TCP", "sock_inode_cache"):
        cost = figures.slabs[name] * COUNT
        assert abs(figures.other_slabs_bytes.get(name, 0)) < 0.1 * cost, figures
