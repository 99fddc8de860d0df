"""Against real connections: the probe counts what the test opened, closed and reset, and nothing else."""

import os
import socket
import struct
from collections.abc import Callable

import pytest

from connprobe.kernel.btf import Btf
from connprobe.kernel.lifecycle import STATES, Connections, Lifecycle, Reading, Role, probe
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe
from kernel import half_open
from kernel.sockets import Load, Sockets, netns_cookie, other_namespace, snmp_counter

ROLES: tuple[Role, ...] = ("server", "client")
RUNGS = [rung.name for rung in probe().rungs]
pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture(params=RUNGS, scope="module")
def offered(request: pytest.FixtureRequest) -> Probe:
    """The probe with one rung alone, where this kernel has it: each must count the same."""
    if request.param == RUNGS[0] and "sk_rst_reason" not in Btf.of_kernel().tracepoint("tcp_send_reset"):
        pytest.skip("this kernel's tcp_send_reset gives no reason: run the tests on Linux 6.11 or newer")
    one = probe()
    return one._replace(rungs=tuple(rung for rung in one.rungs if rung.name == request.param))


@pytest.fixture(scope="module")
def served(load_once: Load, offered: Probe) -> Live:
    return load_once(offered)


@pytest.fixture
def lifecycle(namespace: None, served: Live) -> Lifecycle:
    return Lifecycle(served)


def find(reading: Reading, role: Role, port: int) -> Connections | None:
    here = netns_cookie()
    found = [
        one
        for one in reading.connections
        if (one.at.role, one.at.port, one.at.netns_cookie) == (role, port, here)
    ]
    assert len(found) <= 1
    return found[0] if found else None


def of(reading: Reading, role: Role, port: int) -> Connections:
    found = find(reading, role, port)
    assert found is not None, f"nothing was counted as {role} of port {port}"
    return found


def until(lifecycle: Lifecycle, role: Role, port: int, sure: Callable[[Connections], bool]) -> Connections:
    """Read until it is so: the other end of a connection follows in its own time."""
    while True:
        found = find(lifecycle.read(), role, port)
        if found is not None and sure(found):
            return found
        os.sched_yield()


def pair(listener: socket.socket, host: str | None = None) -> tuple[socket.socket, socket.socket]:
    address, port = listener.getsockname()[:2]
    client = socket.create_connection((host or address, port))
    return client, listener.accept()[0]


def close_abruptly(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 1, 0))
    one.close()


def test_997_connections_over_each_version(lifecycle: Lifecycle, sockets: Sockets) -> None:
    four, six, other = sockets.listen(50), sockets.listen(50, "::1"), sockets.listen(50, "127.0.0.2")
    noise = []
    for number in range(997):
        for listener in (four, six):
            client, server = pair(listener)
            first, last = (client, server) if number % 3 else (server, client)
            first.close()
            last.close()
        if number % 7 == 0:
            noise.append(pair(other))
    for listener in (four, six):
        port = listener.getsockname()[1]
        for role in ROLES:
            found = until(lifecycle, role, port, lambda one: one.closed >= 997)
            assert (found.opened, found.left, found.closed, found.established) == (997, 997, 997, 0)
            assert (found.failed, found.resets_sent, found.resets_received) == (0, 0, {})
            assert "ESTABLISHED" not in found.ended
    for role in ROLES:
        found = of(lifecycle.read(), role, other.getsockname()[1])
        assert (found.opened, found.established, found.closed) == (143, 143, 0)
    for client, server in noise:
        client.close()
        server.close()


def test_both_versions_through_one_listener(lifecycle: Lifecycle, sockets: Sockets) -> None:
    listener = sockets.listen(50, "::")
    pairs = [pair(listener, host) for host in ["127.0.0.1"] * 23 + ["::1"] * 11]
    reading, port = lifecycle.read(), listener.getsockname()[1]
    assert (of(reading, "server", port).opened, of(reading, "client", port).opened) == (34, 34)
    for client, server in pairs:
        server.close()
        client.close()
    for role in ROLES:
        assert until(lifecycle, role, port, lambda one: one.closed >= 34).left == 34


@pytest.mark.parametrize("unread", [False, True])
def test_a_server_that_resets(lifecycle: Lifecycle, sockets: Sockets, offered: Probe, unread: bool) -> None:
    listener = sockets.listen(10)
    port = listener.getsockname()[1]
    for _ in range(7):
        client, server = pair(listener)
        if unread:
            client.send(b"unread")
            assert server.recv(1, socket.MSG_PEEK) == b"u"
            server.close()
        else:
            close_abruptly(server)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()
    sent, received = of(lifecycle.read(), "server", port), of(lifecycle.read(), "client", port)
    assert (sent.resets_sent, sent.resets_received, sent.ended) == (7, {}, {"ESTABLISHED": 7})
    assert (received.resets_sent, received.resets_received) == (0, {"ESTABLISHED": 7})
    assert (received.ended, received.established) == ({"ESTABLISHED": 7}, 0)
    if offered.rungs[0].name == RUNGS[0]:
        assert sent.reset_reasons is not None
        assert sum(sent.reset_reasons.values()) == 7
        assert set(sent.reset_reasons) <= {"TCP_ABORT_ON_CLOSE", "TCP_STATE", "NOT_SPECIFIED"}
        assert received.reset_reasons == {}
    else:
        assert sent.reset_reasons is None


def test_a_port_where_nobody_listens(lifecycle: Lifecycle, sockets: Sockets, offered: Probe) -> None:
    listener = sockets.listen(10)
    address = listener.getsockname()
    listener.close()
    for _ in range(5):
        with socket.socket() as client:
            assert client.connect_ex(address) != 0
    reading = lifecycle.read()
    client_side = of(reading, "client", address[1])
    assert (client_side.opened, client_side.failed, client_side.closed) == (0, 5, 0)
    assert client_side.resets_received == {"SYN_SENT": 5}
    if offered.rungs[0].name == RUNGS[0]:  # older kernels do not tell of resets without a socket
        assert of(reading, "none", 0).reset_reasons == {"NO_SOCKET": 5}


def test_data_for_a_socket_in_time_wait(lifecycle: Lifecycle, sockets: Sockets, offered: Probe) -> None:
    listener = sockets.listen(10)
    client, server = pair(listener)
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    while server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != bytes([STATES.index("FIN_WAIT2")]):
        os.sched_yield()
    server.close()
    client.send(b"too late")
    port = listener.getsockname()[1]
    found = until(lifecycle, "client", port, lambda one: one.closed == 1)
    assert (found.ended, found.resets_received) == ({"CLOSE_WAIT": 1}, {"CLOSE_WAIT": 1})
    found = of(lifecycle.read(), "server", port)
    assert (found.ended, found.resets_sent) == ({"FIN_WAIT2": 1}, 0)
    if offered.rungs[0].name == RUNGS[0]:
        assert of(lifecycle.read(), "none", 0).reset_reasons == {"TCP_TIMEWAIT_SOCKET": 1}
    client.close()


def test_half_closed_is_neither_established_nor_closed(lifecycle: Lifecycle, sockets: Sockets) -> None:
    listener = sockets.listen(10)
    client, server = pair(listener)
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    port = listener.getsockname()[1]
    for role in ROLES:
        found = of(lifecycle.read(), role, port)
        assert (found.opened, found.established, found.closed) == (1, 0, 0)
    server.close()
    assert client.recv(1) == b""
    client.close()
    assert until(lifecycle, "server", port, lambda one: one.closed == 1).ended == {"LAST_ACK": 1}
    assert until(lifecycle, "client", port, lambda one: one.closed == 1).ended == {"FIN_WAIT2": 1}


def test_children_of_a_listener_without_backlog(lifecycle: Lifecycle, sockets: Sockets) -> None:
    """Their sockets do not tell that they are children."""
    listener = sockets.listen(0)
    port = listener.getsockname()[1]
    pairs = [pair(listener) for _ in range(11)]
    found = of(lifecycle.read(), "server", port)
    assert (found.opened, found.established, of(lifecycle.read(), "client", port).opened) == (11, 11, 11)
    for client, server in pairs:
        close_abruptly(server)
        client.close()
    for role in ROLES:
        assert until(lifecycle, role, port, lambda one: one.closed >= 11).ended == {"ESTABLISHED": 11}
    assert of(lifecycle.read(), "server", port).resets_sent == 11


def test_a_listener_that_turns_client(lifecycle: Lifecycle, sockets: Sockets) -> None:
    listener, turned = sockets.listen(10), sockets.listen(10)
    turned.shutdown(socket.SHUT_RD)
    turned.connect(listener.getsockname())
    listener.accept()[0].close()
    assert turned.recv(1) == b""
    turned.close()
    port = listener.getsockname()[1]
    found = until(lifecycle, "client", port, lambda one: one.closed == 1)
    assert (found.opened, found.left, found.ended) == (1, 1, {"LAST_ACK": 1})


def test_a_socket_connected_to_itself_is_a_client(lifecycle: Lifecycle) -> None:
    with socket.socket() as both:
        both.bind(("127.0.0.1", 0))
        both.connect(both.getsockname())
        port = both.getsockname()[1]
        reading = lifecycle.read()
        assert (of(reading, "client", port).established, find(reading, "server", port)) == (1, None)


def test_a_connection_that_a_child_process_inherits(lifecycle: Lifecycle, sockets: Sockets) -> None:
    listener = sockets.listen(10)
    client, server = pair(listener)
    ended, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        os.read(ended, 1)
        os._exit(0)
    client.close()
    server.close()
    port = listener.getsockname()[1]
    for role in ROLES:
        assert of(lifecycle.read(), role, port).established == 1
    os.close(end)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(ended)
    for role in ROLES:
        assert until(lifecycle, role, port, lambda one: one.closed == 1).established == 0


def test_connections_from_before(served: Live, sockets: Sockets, load: Load) -> None:
    listener, unseen = sockets.listen(50), sockets.listen(0)
    port = listener.getsockname()[1]
    pairs = [pair(listener) for _ in range(13)]
    lifecycle = Lifecycle(load(probe()))
    with other_namespace():
        pairs += [pair(sockets.listen(5)) for _ in range(2)]
        assert [
            one.before for one in lifecycle.read().connections if one.at.netns_cookie == netns_cookie()
        ] == [None] * 4
    pairs += [pair(listener), pair(listener), pair(unseen)]
    for client, server in pairs[:5]:
        server.close()
        client.close()
    for role in ROLES:
        found = until(lifecycle, role, port, lambda one: one.closed >= 5)
        assert (found.before, found.within, found.opened, found.left, found.established) == (13, 0, 2, 5, 10)
    lifecycle.census()  # once more: it finds what was counted
    found = of(lifecycle.read(), "server", port)
    assert (found.before, found.within, found.established) == (13, 0, 10)
    for client, server in pairs:
        client.close()
        server.close()


def test_retransmits_are_those_of_the_namespace(lifecycle: Lifecycle, sockets: Sockets) -> None:
    listener = sockets.listen(0)
    sockets.connect(
        listener, 4
    )  # one is queued; the SYNs of the others are dropped, and sent again each second
    port = listener.getsockname()[1]
    found = until(lifecycle, "client", port, lambda one: 3 <= one.retransmits == snmp_counter("RetransSegs"))
    assert (found.opened, found.established, found.resets_received) == (1, 1, {})


def test_a_child_closed_before_its_handshake_is_over(lifecycle: Lifecycle, sockets: Sockets) -> None:
    """TCP Fast Open, and no answer to the SYN-ACK."""
    half_open.prepare()
    half_open.set_sysctl("net.ipv4.tcp_fastopen", 0x202)  # server, no cookie asked
    listener = sockets.listen(10)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 10)
    half_open.send_syns(listener, 1, b"early")
    server, _ = listener.accept()
    assert server.recv(5) == b"early"
    server.close()
    found = of(lifecycle.read(), "server", listener.getsockname()[1])
    assert (found.opened, found.left, found.established, found.closed) == (1, 1, 0, 0)


def test_the_same_port_in_another_namespace(lifecycle: Lifecycle, sockets: Sockets) -> None:
    here = sockets.listen(20)
    port = here.getsockname()[1]
    sockets.connect(here, 3)
    with other_namespace():
        there = sockets.listen(20, port=port)
        sockets.connect(there, 5)
        other = of(lifecycle.read(), "server", port)
    assert (of(lifecycle.read(), "server", port).opened, other.opened, other.established) == (3, 5, None)


def test_more_ports_than_there_is_room_for(load: Load, sockets: Sockets) -> None:
    lifecycle = Lifecycle(load(probe(ports=2, events=2)))
    for _ in range(5):
        client, server = pair(sockets.listen(3))
        close_abruptly(server)
        client.close()
    reading = lifecycle.read()
    assert reading.lost["ports_full"] >= 5
    assert reading.lost["events_full"] >= 5
    assert not reading.complete


def test_more_odd_roles_than_there_is_room_for(load: Load, sockets: Sockets) -> None:
    lifecycle = Lifecycle(load(probe(odd_roles=2)))
    listener = sockets.listen(0)
    pairs = [pair(listener) for _ in range(5)]
    assert lifecycle.read().lost["roles_full"] >= 3
    for client, server in pairs:
        client.close()
        server.close()


def test_a_hook_that_is_torn_away_is_shown(load: Load) -> None:
    live = load(probe())
    lifecycle = Lifecycle(live)
    label = "raw_tracepoint tcp_receive_reset"
    os.close(live.hooks[label])
    assert lifecycle.read().lost[f"detached {label}"] == 1
