"""What a run sees of real listeners, through eBPF and below it."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded, Unavailable
from connprobe.model import ListenerFigures, ProbeUse, QueueSample
from connprobe.observe.listeners import chosen_by
from connprobe.observe.sockdiag import ListenSocket
from connprobe.session.kernel import queues, waits
from connprobe.session.kernel.kernelview import KernelView, reasons
from connprobe.session.kernel.probes import load_probes
from kernel.io_uring import AcceptRing
from kernel.sockets import Sockets, inode_of, tcp_counter

Choose = Callable[[Sequence[ListenSocket]], Sequence[ListenSocket]]


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def name_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{port_of(listener)}"


def on_ports_of(*listeners: socket.socket) -> Choose:
    ports = {port_of(each) for each in listeners}
    return lambda found: [entry for entry in found if entry.port in ports]


def sample_of(view: KernelView, listener: socket.socket) -> QueueSample:
    (found,) = [each for each in view.read().queues if each.address == name_of(listener)]
    return found


def figures_of(view: KernelView, name: str) -> ListenerFigures:
    (found,) = [each for each in view.listeners() if each.address == name]
    return found


def overflow(sockets: Sockets, listener: socket.socket, count: int) -> None:
    """More connections than the four that find room; the others are given up, so no SYN comes later."""
    for refused in sockets.connect(listener, count)[4:]:
        refused.close()


def uses(view: KernelView) -> dict[str, ProbeUse]:
    return {use.name: use for use in view.probes()}


def live(loaded: Loaded, name: str) -> Live:
    probe = loaded[name]
    assert isinstance(probe, Live)
    return probe


def test_an_overflowing_queue_through_ebpf(loaded: Loaded, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    view = KernelView(on_ports_of(listener), loaded)
    before = tcp_counter("ListenOverflows")
    overflow(sockets, listener, 23)
    seen = sample_of(view, listener)
    assert (seen.sockets, seen.depth, seen.depth_max, seen.capacity_each, seen.enqueued) == (1, 4, 4, 4, 4)
    for _ in range(3):
        sockets.accept(listener)
    seen = sample_of(view, listener)
    assert (seen.depth, seen.accepted) == (1, 3)
    found = figures_of(view, name_of(listener))
    assert (found.depth, found.depth_max, found.capacity) == (1, 4, 4)
    assert found.overflows is not None
    assert 19 <= found.overflows <= tcp_counter("ListenOverflows") - before
    assert "backlog argument of listen(2): 3" in (found.capacity_from or "")
    assert found.wait_ms is not None
    assert found.wait_ms.count == 3
    assert found.source == f"eBPF: {live(loaded, 'accept_queue').rung}"
    assert all(use.source and use.kernel_memory_bytes for use in view.probes())
    assert reasons(view.listeners(), view.probes()) == {}


def test_the_same_without_ebpf(sockets: Sockets) -> None:
    listener = sockets.listen(3)
    view = KernelView(on_ports_of(listener), None)
    sockets.connect(listener, 23)
    seen = sample_of(view, listener)
    assert (seen.sockets, seen.depth, seen.depth_max, seen.capacity_each) == (1, 4, 4, 4)
    assert (seen.enqueued, seen.accepted, seen.wait_p50_ms) == (None, None, None)
    found = figures_of(view, name_of(listener))
    assert (found.source, found.depth_max, found.capacity) == ("sock_diag", 4, 4)
    assert found.overflows is not None
    assert found.overflows >= 19
    assert not found.complete
    below = uses(view)
    assert below["accept_queue"].source == "sock_diag, once a second"
    assert below["accept_wait"].source is None
    for use in below.values():
        assert (use.reason, use.fix) == ("switched off by --no-bpf", "leave --no-bpf out")
    assert reasons(view.listeners(), view.probes()) == {"listeners.0.wait_ms": "switched off by --no-bpf"}


@pytest.mark.parametrize("with_probes", [True, False])
def test_overflows_before_the_view_began_are_not_its(
    with_probes: bool, sockets: Sockets, request: pytest.FixtureRequest
) -> None:
    listener = sockets.listen(3)
    overflow(sockets, listener, 7)
    view = KernelView(on_ports_of(listener), request.getfixturevalue("fresh") if with_probes else None)
    seen = sample_of(view, listener)
    assert (seen.depth, seen.depth_max, seen.overflows) == (4, 4, 0)
    assert seen.enqueued == (0 if with_probes else None)


def test_two_listeners_are_never_mixed_up(loaded: Loaded, sockets: Sockets) -> None:
    full, roomy = sockets.listen(2), sockets.listen(64)
    unmeant = sockets.listen(7)
    view = KernelView(on_ports_of(full, roomy), loaded)
    sockets.connect(full, 7)
    sockets.connect(roomy, 23)
    sockets.connect(unmeant, 5)
    by_name = {each.address: each for each in view.read().queues}
    assert set(by_name) == {name_of(full), name_of(roomy)}
    assert (by_name[name_of(full)].depth, by_name[name_of(full)].capacity_each) == (3, 3)
    assert (by_name[name_of(roomy)].depth, by_name[name_of(roomy)].overflows) == (23, 0)
    overflows = by_name[name_of(full)].overflows
    assert overflows is not None
    assert overflows >= 4


@pytest.mark.parametrize("with_probes", [True, False])
def test_a_group_is_summed_and_told_apart(
    with_probes: bool, sockets: Sockets, request: pytest.FixtureRequest
) -> None:
    loaded = request.getfixturevalue("loaded") if with_probes else None
    first = sockets.listen(64, reuse=True)
    group = [first, sockets.listen(64, port=port_of(first), reuse=True)]
    view = KernelView(on_ports_of(first), loaded)
    sockets.connect(first, 41, group=group)
    seen = sample_of(view, first)
    assert (seen.sockets, seen.depth, seen.capacity_each) == (2, 41, 65)
    found = figures_of(view, name_of(first))
    assert {each.inode for each in found.sockets} == {inode_of(each) for each in group}
    assert (found.capacity, sum(each.depth or 0 for each in found.sockets)) == (130, 41)
    assert seen.depth_max == max(each.depth or 0 for each in found.sockets)


@pytest.mark.parametrize("with_probes", [True, False])
def test_a_new_listener_on_the_port_of_a_closed_one(
    with_probes: bool, sockets: Sockets, request: pytest.FixtureRequest
) -> None:
    """Overflows of the closed one stay counted; capacity and depth are those of the new one."""
    loaded = request.getfixturevalue("loaded") if with_probes else None
    old = sockets.listen(3)
    name, port = name_of(old), port_of(old)
    choose = on_ports_of(old)
    view = KernelView(choose, loaded)
    overflow(sockets, old, 13)
    before = sample_of(view, old)
    assert before.overflows is not None
    assert before.overflows >= 9
    old.close()
    assert view.read().queues == ()
    closed = figures_of(view, name)
    assert closed.depth is None
    assert closed.capacity == 4
    assert closed.overflows is not None
    assert closed.overflows >= before.overflows
    assert [each.gone for each in closed.sockets] == [True]
    assert reasons([closed], view.probes())["listeners.0.depth"] == "it is closed"

    new = sockets.listen(64, port=port)
    view.read()
    sockets.connect(new, 5)
    seen = sample_of(view, new)
    assert (seen.sockets, seen.depth, seen.capacity_each) == (1, 5, 65)
    assert seen.overflows == closed.overflows
    found = figures_of(view, name)
    assert (found.depth, found.capacity, found.depth_max) == (5, 65, 5)
    assert [each.gone for each in found.sockets] == [False, True]


def open_and_close(view: KernelView, sockets: Sockets, port: int, times: int) -> None:
    for _ in range(times):
        listener = sockets.listen(1, port=port)
        view.read()
        listener.close()
        view.read()


def test_what_comes_and_goes_for_days_stays_small(
    loaded: Loaded, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "CLOSED_KEPT", 3)
    monkeypatch.setattr(queues, "ADDRESSES_KEPT", 5)
    monkeypatch.setattr(waits, "ADDRESSES_KEPT", 5)
    kept = sockets.listen(3)
    mine = {port_of(kept)}
    view = KernelView(lambda found: [entry for entry in found if entry.port in mine], loaded)
    open_and_close(view, sockets, 0, 1)
    reused = sockets.listen(3)
    port = port_of(reused)
    mine.add(port)
    view.read()
    overflow(sockets, reused, 7)
    sockets.accept(reused)
    view.read()
    lost = figures_of(view, f"127.0.0.1:{port}").overflows
    assert lost is not None
    assert lost >= 3
    reused.close()
    view.read()
    open_and_close(view, sockets, port, 7)
    found = figures_of(view, f"127.0.0.1:{port}")
    assert len(found.sockets) == 3
    assert found.overflows is not None
    assert found.overflows >= lost
    assert found.wait_ms is not None
    assert found.wait_ms.count == 1
    for _ in range(7):
        passing = sockets.listen(1)
        mine.add(port_of(passing))
        view.read()
        passing.close()
        view.read()
    names = [each.address for each in view.listeners()]
    assert len(names) <= 5
    assert name_of(kept) in names


def test_a_torn_queue_probe_falls_back_to_sock_diag(fresh: Loaded, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    view = KernelView(on_ports_of(listener), fresh)
    sockets.connect(listener, 23)
    before = sample_of(view, listener)
    others = uses(view)["accept_wait"]
    probe = live(fresh, "accept_queue")
    os.close(probe.hooks[label := next(label for label in probe.hooks if label.startswith("raw"))])
    after = sample_of(view, listener)
    assert (after.depth, after.capacity_each, after.enqueued) == (4, 4, None)
    assert after.overflows is not None
    assert before.overflows is not None
    assert after.overflows >= before.overflows
    found = figures_of(view, name_of(listener))
    assert found.source == "sock_diag"
    torn = uses(view)["accept_queue"]
    assert torn.source == "sock_diag, once a second"
    assert torn.reason == f"torn away in the run: {label} leads to it no more"
    assert uses(view)["accept_wait"] == others


def test_a_torn_iterator_is_no_crash(fresh: Loaded, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    view = KernelView(on_ports_of(listener), fresh)
    os.close(live(fresh, "accept_queue").hooks["iter tcp"])
    sockets.connect(listener, 2)
    assert sample_of(view, listener).depth == 2
    assert "torn away in the run" in (uses(view)["accept_queue"].reason or "")
    assert sample_of(view, listener).depth == 2


def test_waits_until_their_probe_was_torn_away_are_kept(fresh: Loaded, sockets: Sockets) -> None:
    listener = sockets.listen(64)
    view = KernelView(on_ports_of(listener), fresh)
    sockets.connect(listener, 7)
    for _ in range(5):
        sockets.accept(listener)
    view.read()
    probe = live(fresh, "accept_wait")
    os.close(probe.hooks[next(iter(probe.hooks))])
    for _ in range(2):
        sockets.accept(listener)
    seen = sample_of(view, listener)
    assert (seen.enqueued, seen.accepted) == (7, 7)
    found = figures_of(view, name_of(listener))
    assert found.wait_ms is not None
    assert found.wait_ms.count == 5
    use = uses(view)["accept_wait"]
    assert use.source is None
    assert "torn away in the run" in (use.reason or "")


def test_accepts_that_no_hook_shows_are_told(fresh: Loaded, sockets: Sockets) -> None:
    listener, ordinary = sockets.listen(64), sockets.listen(64)
    view = KernelView(on_ports_of(listener, ordinary), fresh)
    sockets.connect(listener, 13)
    sockets.connect(ordinary, 7)
    with AcceptRing() as ring:
        kept = [ring.accept(listener) for _ in range(10)]
    for each, count in ((listener, 3), (ordinary, 7)):
        for _ in range(count):
            sockets.accept(each)
    for _ in range(3):  # enqueued before the second, compared at the third
        view.read()
    all_seen = live(fresh, "accept_wait").rung.startswith("fexit ")
    assert uses(view)["accept_wait"].lost == ({} if all_seen else {"accepted unseen": 10})
    assert sample_of(view, listener).accepted == 13
    assert figures_of(view, name_of(ordinary)).wait_least_ms is None
    assert (figures_of(view, name_of(listener)).wait_least_ms is None) == all_seen
    for one in kept:
        one.close()


def test_waits_that_no_hook_shows_come_from_the_order(fresh: Loaded, sockets: Sockets) -> None:
    """Against the test's own clocks: one connects each 10 ms, and each waits for the 50 ms of five others."""
    listener = sockets.listen(64)
    view = KernelView(on_ports_of(listener), fresh)
    view.read()
    came, took = [], []
    with AcceptRing() as ring:
        for step in range(40):
            before = time.monotonic()
            sockets.connect(listener)
            came.append((before, time.monotonic()))
            time.sleep(0.01)
            if step >= 5:
                before = time.monotonic()
                sockets.keep(ring.accept(listener))
                took.append((before, time.monotonic()))
    for _ in range(3):  # enqueued before the first, compared at the next
        seen = sample_of(view, listener)
    found = figures_of(view, name_of(listener))
    assert found.wait_ms is not None
    assert found.wait_ms.count == 35
    least = sorted(1000 * (left[0] - at[1]) for at, left in zip(came, took, strict=False))
    most = sorted(1000 * (left[1] - at[0]) for at, left in zip(came, took, strict=False))
    if live(fresh, "accept_wait").rung.startswith("fexit "):
        assert found.wait_least_ms is None
        assert 0.98 * least[17] <= found.wait_ms.p50 <= 1.02 * most[17]
        return
    assert found.wait_least_ms is not None
    assert found.wait_least_ms.p50 <= 1.02 * most[17]
    assert found.wait_ms.p50 >= 0.98 * least[17]
    assert found.wait_least_ms.max <= most[-1]
    assert found.wait_ms.max >= least[-1]
    gaps = [1000 * (after[1] - before[0]) for before, after in pairwise(came)]  # from look to look
    assert found.wait_ms.p50 - found.wait_least_ms.p50 <= 1.05 * max(gaps)
    assert (seen.wait_p50_ms, seen.wait_p50_least_ms) == (found.wait_ms.p50, found.wait_least_ms.p50)
    assert uses(view)["accept_wait"].lost == {"accepted unseen": 35}


def test_waits_of_mptcp_come_from_the_order(fresh: Loaded, sockets: Sockets) -> None:
    listener = sockets.listen(64, protocol=socket.IPPROTO_MPTCP)
    view = KernelView(on_ports_of(listener), fresh)
    view.read()
    sockets.connect(listener, 9, protocol=socket.IPPROTO_MPTCP)
    time.sleep(0.05)
    for _ in range(9):
        sockets.accept(listener)
    for _ in range(3):
        view.read()
    found = figures_of(view, name_of(listener))
    assert found.wait_ms is not None
    assert found.wait_least_ms is not None
    assert found.wait_ms.count == 9
    assert found.wait_ms.p50 >= 50


def view_without_waits(fresh: Loaded, sockets: Sockets) -> tuple[KernelView, socket.socket]:
    """A view without accept_wait, and its listener, to which seven connected, of which five were accepted."""
    listener = sockets.listen(64)
    without_waits = Loaded({**fresh.probes, "accept_wait": Unavailable("accept_wait", "refused")})
    view = KernelView(on_ports_of(listener), without_waits)
    view.read()
    sockets.connect(listener, 7)
    for _ in range(5):
        sockets.accept(listener)
    for _ in range(3):
        view.read()
    return view, listener


def test_inferred_waits_stay_where_the_queues_probe_was_torn_away(fresh: Loaded, sockets: Sockets) -> None:
    view, listener = view_without_waits(fresh, sockets)
    probe = live(fresh, "accept_queue")
    os.close(probe.hooks[next(label for label in probe.hooks if label.startswith("raw"))])
    assert sample_of(view, listener).wait_p50_least_ms is not None
    found = figures_of(view, name_of(listener))
    assert found.source == "sock_diag"
    assert found.wait_ms is not None
    assert found.wait_least_ms is not None
    assert found.wait_ms.count == 5


def test_without_its_probe_the_order_answers(fresh: Loaded, sockets: Sockets) -> None:
    view, listener = view_without_waits(fresh, sockets)
    found = figures_of(view, name_of(listener))
    assert found.wait_ms is not None
    assert found.wait_least_ms is not None
    assert found.wait_ms.count == found.wait_least_ms.count == 5
    use = uses(view)["accept_wait"]
    assert use.source == "first-in-first-out order, by accept_queue"
    assert (use.reason, use.lost) == ("refused", {})


def test_the_listener_of_a_remote_target_is_not_here(loaded: Loaded) -> None:
    view = KernelView(chosen_by("192.0.2.23", 80), loaded)
    assert view.read().queues == ()
    assert view.listeners() == ()
    assert not view.has_listeners


def test_softirqs_have_no_share_of_a_few_ticks() -> None:
    view = KernelView(lambda found: [], None)
    view._cpu_at = time.monotonic()  # the reading that it begins with may have taken long
    assert view.read().softirq is None
    time.sleep(0.25)
    share = view.read().softirq
    assert share is not None
    assert 0 <= share <= 1


def test_counters_move_from_zero(sockets: Sockets) -> None:
    view = KernelView(lambda found: [], None)
    listener = sockets.listen(64)
    sockets.connect(listener, 23)
    moved = view.read().counters
    assert moved["ActiveOpens"] >= 23
    assert all(moved.values())
    totals = view.counters()
    assert totals["PassiveOpens"] is not None
    assert totals.keys() > moved.keys()


def test_a_process_of_another_namespace_that_is_gone_ends_nothing() -> None:
    def choose(found: Iterable[ListenSocket]) -> Sequence[ListenSocket]:
        return list(found)

    view = KernelView(choose, None, pid=1 << 22)  # the highest pid there may be, and one more
    assert view.read().queues == ()
    assert set(view.counters().values()) == {None}


def datagrams(count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        name = sock.getsockname()
        for _ in range(count):
            sock.sendto(b"", name)
            sock.recv(1)


class Child:
    """Sends itself as many datagrams as it is told to, each time."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            try:
                while True:
                    datagrams(int.from_bytes(theirs.recv(4)))
                    theirs.send(b"!")
            finally:
                os._exit(0)
        theirs.close()

    def do(self, count: int) -> None:
        self._ours.send(count.to_bytes(4))
        assert self._ours.recv(1) == b"!"

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._ours.close()


@pytest.fixture
def with_calls() -> Iterator[Loaded]:
    with load_probes(system_calls=True) as probes:
        probe = probes["net_cpu"]
        if not isinstance(probe, Live) or probe.refused:
            pytest.skip(
                "system calls cannot be traced here: run the tests as root, on a kernel that traces them"
            )
        yield probes


def test_processes_that_come_later_are_followed_and_those_that_end_stay_counted(
    with_calls: Loaded, sockets: Sockets
) -> None:
    view = KernelView(on_ports_of(sockets.listen(3)), with_calls)
    first, second = Child(), Child()
    first.do(4999)  # before anything is watched: neither the machine's nor its
    view.traffic.follow([first.pid])
    first.do(211)
    view.traffic.follow([first.pid, second.pid])
    second.do(307)
    first.end()
    view.traffic.follow([second.pid])
    second.do(101)
    network = view.network()
    second.end()
    assert network is not None
    assert network.cpu is not None
    target = network.cpu.target
    assert target is not None
    assert target.calls is not None
    assert 2 * (211 + 307 + 101) <= target.calls <= 2 * (211 + 307 + 101) + 60
    assert 0 < target.softirq_s <= network.cpu.net_rx_s + network.cpu.net_tx_s
    assert network.cpu.client is None


def test_the_machines_softirqs_count_from_when_something_was_watched(fresh: Loaded, sockets: Sockets) -> None:
    view = KernelView(on_ports_of(sockets.listen(3)), fresh)
    datagrams(20_000)
    view.traffic.watch([os.getpid()], "client")
    datagrams(23)
    network = view.network()
    assert network is not None
    assert network.cpu is not None
    assert network.cpu.client is not None
    took = network.cpu.client.softirq_s
    datagrams(20_000)
    after = view.network()
    assert after is not None
    assert after.cpu is not None
    assert after.cpu.client is not None
    same = after.cpu.client.softirq_s - took  # what the first 20,000 took, about
    assert network.cpu.net_rx_s + network.cpu.net_tx_s < took + same / 2
