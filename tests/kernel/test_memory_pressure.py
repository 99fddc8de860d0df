"""Where memory really is short: in a memory cgroup, and in receive buffers that are too small."""

import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from connprobe.data import data_dir
from connprobe.kernel.btf import VMLINUX, Btf, Field
from connprobe.kernel.live import Live
from connprobe.kernel.loader import load as load_probes
from connprobe.kernel.memory_pressure import MemoryPressures, Reclaim, Refused, probe
from connprobe.kernel.probe import Hook, Probe, Rung
from kernel.cgroups import memory_cgroup
from kernel.conftest import live
from kernel.sockets import Load, Sockets, tcp_counter

SLOW_S = 100  # for a processor that is emulated
SO_MEMINFO, DROPS = 55, 8  # asm-generic/socket.h, linux/sock_diag.h


@pytest.fixture(scope="module")
def served(load_once: Load) -> Live:
    return load_once(probe())


@pytest.fixture
def pressures(served: Live) -> MemoryPressures:
    return MemoryPressures(served)


def fill(sender: socket.socket) -> None:
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(20000))
    except BlockingIOError:
        pass


def test_a_cgroup_without_memory_for_its_sockets(pressures: MemoryPressures) -> None:
    def work() -> None:
        held = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(23):
                held += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
                fill(held[-2])

    before = pressures.read()
    with memory_cgroup() as cgroup:
        cgroup.limit_tcp(1 << 16)
        assert cgroup.run(work) == 0
    after = pressures.read()
    refused = after.send.otherwise + after.receive.otherwise  # not each kernel tells of the receivers
    assert refused > before.send.otherwise + before.receive.otherwise
    assert (after.send.over_limit, after.receive.over_limit) == (
        before.send.over_limit,
        before.receive.over_limit,
    )
    assert after.lost == {}


def tcp_prot(directory: Path) -> int:
    """Where the kernel keeps it, by a probe that looks at a socket: /proc/kallsyms may hide it."""
    shutil.copy(data_dir("probes") / "common.bpf.h", directory)
    (directory / "where.bpf.c").write_text(
        "BPF_ARRAY(found, u64, 1);\n"
        "RAW_TRACEPOINT(look) {\n"
        "  u64 sk = ctx->args[0], proto = READ(u64, sk, SOCK_SKC_PROT);\n"
        "  int zero = 0;\n"
        "  if (READ(u16, sk, SOCK_SKC_FAMILY) == AF_INET) found.update(&zero, &proto);\n"
        "  return 0;\n"
        "}\n"
    )
    fields = (Field("sock", "__sk_common.skc_prot", 8), Field("sock", "__sk_common.skc_family", 2))
    rung = Rung("only", (Hook("raw_tracepoint", "inet_sock_set_state", "look"),), fields)
    with load_probes([Probe("where", (rung,))], directory=directory, timeout_s=SLOW_S) as loaded:
        with socket.create_server(("127.0.0.1", 0)):
            pass
        (value,) = live(loaded, "where").maps["found"].get(bytes(4)) or [b""]
    return int.from_bytes(value, sys.byteorder)


def test_the_limit_is_that_of_tcp_mem(served: Live, pressures: MemoryPressures, tmp_path: Path) -> None:
    """Called with the arguments that the kernel would give: nobody's limit is changed for a test."""
    proto = tcp_prot(tmp_path)
    limit = int(Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[2])
    before = pressures.read()
    calls = ((limit, 0), (limit + 1, 0), (limit + 1, 0), (limit, 1), (limit, 1), (limit, 1), (limit + 1, 1))
    for allocated, kind in calls:
        served.call("exceed", 0, proto, allocated, kind)
    after = pressures.read()
    assert after.send == Refused(before.send.over_limit + 2, before.send.otherwise + 1)
    assert after.receive == Refused(before.receive.over_limit + 1, before.receive.otherwise + 3)


def test_segments_that_a_receiver_has_no_memory_for(
    namespace: None, pressures: MemoryPressures, sockets: Sockets
) -> None:
    """The window was promised before the buffer shrank."""
    listener = sockets.listen(100)
    before = pressures.read().drops
    for client in sockets.connect(listener, 7):
        server = sockets.accept(listener)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        fill(client)
    while True:
        counted = tcp_counter("TCPRcvQDrop")
        after = pressures.read().drops
        if counted == tcp_counter("TCPRcvQDrop"):
            break
    if before is None or after is None:
        pytest.skip("this kernel tells no reason for drops: run the tests on Linux 5.17 or later")
    assert after["PROTO_MEM"] - before.get("PROTO_MEM", 0) >= counted >= 1


def test_a_ping_socket_that_nobody_reads(namespace: None, pressures: MemoryPressures) -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")  # of this namespace
    before = pressures.read()
    echo = struct.pack("BBHHH", 8, 0, 0xF7FF, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        one.connect(("127.0.0.1", 0))
        for _ in range(499):
            one.send(echo)
        while (drops := struct.unpack("9I", one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[DROPS]) < 400:
            os.sched_yield()
        counted = pressures.read().receive_queue_full
    assert counted - before.receive_queue_full >= drops


def test_a_cgroup_at_its_limit_reclaims(pressures: MemoryPressures, tmp_path: Path) -> None:
    def work() -> None:
        with (tmp_path / "file").open("wb") as file:
            for _ in range(48):
                file.write(bytes(1 << 20))

    before = pressures.read()
    with memory_cgroup() as cgroup:
        cgroup.limit(24 << 20)
        cgroup.run(work)
    after = pressures.read()
    if before.cgroup_reclaim is None or after.cgroup_reclaim is None:
        pytest.skip("this kernel has no memory cgroups: boot one with CONFIG_MEMCG=y")
    assert after.cgroup_reclaim.times > before.cgroup_reclaim.times
    assert after.cgroup_reclaim.time_s > before.cgroup_reclaim.time_s


def test_a_process_that_is_killed_for_want_of_memory(pressures: MemoryPressures) -> None:
    def work() -> None:
        Path("/proc/self/oom_score_adj").write_text("1000")
        bytearray(os.urandom(1)) * (256 << 20)

    before = pressures.read().oom_kills
    with memory_cgroup() as cgroup:
        cgroup.limit(24 << 20)
        status = cgroup.run(work)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        pytest.skip("the cgroup may swap without end: switch swap off")
    assert pressures.read().oom_kills > before


def test_reclaim_is_timed_by_thread(served: Live, pressures: MemoryPressures) -> None:
    """Run by hand: a machine that is short of memory is no place for tests."""
    before = pressures.read()
    if before.direct_reclaim is None:
        pytest.skip("this kernel has no tracepoint mm_vmscan_direct_reclaim_begin: use one that has")
    served.call("direct_begin")
    between = pressures.read().direct_reclaim
    served.call("direct_end")
    after = pressures.read()
    assert between is not None
    assert after.direct_reclaim is not None
    assert after.direct_reclaim.times > between.times >= before.direct_reclaim.times
    assert after.direct_reclaim.time_s > before.direct_reclaim.time_s
    assert served.maps["reclaiming"].get(struct.pack("I", os.getpid())) is None


@pytest.mark.parametrize(
    ("hidden", "rung"),
    [
        (("btf_trace_kfree_skb",), "tracepoints: without drops"),
        (("btf_trace_mm_vmscan_memcg_reclaim_end",), "tracepoints: without cgroups"),
        (("btf_trace_mm_vmscan_direct_reclaim_end", "btf_trace_kfree_skb"), "tracepoints: sockets"),
    ],
)
def test_what_a_kernel_lacks_is_unknown(load_once: Load, hidden: tuple[str, ...], rung: str) -> None:
    load_once(probe())
    table = VMLINUX.read_bytes()
    for name in hidden:
        table = table.replace(f"\0{name}\0".encode(), f"\0x{name[1:]}\0".encode())
    with load_probes([probe()], btf=Btf(table), timeout_s=SLOW_S) as loaded:
        one = live(loaded, "memory_pressure")
        reading = MemoryPressures(one).read()
        assert one.rung == rung
        assert any(hidden[0].removeprefix("btf_trace_") in refusal.reason for refusal in one.refused)
    assert (reading.drops is None) == ("drops" in rung or "sockets" in rung)
    assert (reading.cgroup_reclaim is None) == ("cgroups" in rung or "sockets" in rung)
    assert (reading.direct_reclaim is None) == (reading.kswapd_wakes is None) == ("sockets" in rung)
    assert isinstance(reading.send, Refused)
    assert reading.direct_reclaim is None or isinstance(reading.direct_reclaim, Reclaim)


def test_more_threads_reclaim_than_there_is_room_for(load: Load) -> None:
    one = load(probe(reclaiming=1))
    pressures = MemoryPressures(one)
    if pressures.read().direct_reclaim is None:
        pytest.skip("this kernel has no tracepoint mm_vmscan_direct_reclaim_begin: use one that has")
    one.call("direct_begin")
    pid = os.fork()
    if pid == 0:
        one.call("direct_begin")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert pressures.read().lost == {"reclaims_full": 1}
