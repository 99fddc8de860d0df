"""What listener_pids names is compared with who answers: each server sends its pid to whom it accepts."""

import os
import platform
import random
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from connprobe.observe.listeners import listener_pids, reached_sockets
from connprobe.observe.sockdiag import ListenSocket, listen_sockets, listen_sockets_from_proc

Start = Callable[..., Any]

SERVER = """
import json, os, socket, sys
host, port, children, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
if "reuseport" in options:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if ":" in host:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, "v6only" in options)
listener.bind((host, port))
listener.listen()
pids = [os.getpid()]
for _ in range(children):
    pid = os.fork()
    if not pid:
        break
    pids.append(pid)
else:
    print(json.dumps([listener.getsockname()[1], pids]), flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""

# Four more listeners on the server's port, as one for each thread would be.
MORE = """
more = [socket.socket() for _ in range(4)]
for another in more:
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another.bind(listener.getsockname())
    another.listen()
"""

# Finds listeners, as `nobody` if told so, from inside the namespaces it was started in.
FINDER = """
import json, os, sys
from connprobe.observe.listeners import listener_pids
if "nobody" in sys.argv:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(json.dumps(listener_pids(sys.argv[1], int(sys.argv[2]))))
"""

# Refuses AF_NETLINK sockets as a unit with systemd's RestrictAddressFamilies= does, then goes on as FINDER.
REFUSING = """
import ctypes, errno, struct, sys
AF_NETLINK, LOAD, EQUAL, RETURN, ALLOW, ERRNO = 16, 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
program = b"".join(struct.pack("=HBBI", *line) for line in [
    (LOAD, 0, 0, 0), (EQUAL, 0, 3, int(sys.argv[3])),
    (LOAD, 0, 0, 16), (EQUAL, 0, 1, AF_NETLINK),
    (RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)])
buffer = ctypes.create_string_buffer(program, len(program))
header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 6, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, header, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""
WITHOUT_NETLINK = REFUSING + FINDER
# Whether a port is taken, by whom, and a server that is started in spite of that.
STARTER_WITHOUT_NETLINK = (
    REFUSING
    + """
import json, tempfile
from pathlib import Path
from connprobe.session.limits.limit import port_taken
from connprobe.session.started import StartedServer, free_port, taken
port = free_port("127.0.0.1")
code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); s.accept()"
with tempfile.TemporaryFile() as log:
    server = StartedServer([sys.executable, "-c", code], {}, log, Path("log"), (100, 100))
with server:
    place = server.wait_until_listening(port, 20, lambda: False)
    said = [place.port == port, taken(port) == (server.pid,), len(port_taken(port))]
print(json.dumps(said), flush=True)
sys.stdin.read()
"""
)


def quiet_port() -> int:
    """A port that is free at every address: below the range from which connections get theirs."""
    for _ in range(101):
        port = random.randrange(20_000, 30_000)
        try:
            socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True).close()
        except OSError:
            continue
        return port
    pytest.fail("no free port between 20,000 and 30,000")


def answering(address: str, port: int) -> int:
    """The pid that accepts a connection to address:port."""
    with socket.create_connection((address, port), timeout=10) as connection:
        return int(connection.recv(100))


def test_a_server_forked_after_listen_is_its_parent_and_all_children(start: Start) -> None:
    port, pids = start(SERVER, "127.0.0.1", "0", "3").said
    found = listener_pids("127.0.0.1", port)
    assert found == (tuple(sorted(pids)), True, None)
    assert len(pids) == 4
    assert answering("127.0.0.1", port) in pids


def test_an_so_reuseport_group_of_independent_processes(start: Start) -> None:
    port, first = start(SERVER, "127.0.0.1", str(quiet_port()), "0", "reuseport").said
    _, second = start(SERVER, "127.0.0.1", str(port), "0", "reuseport").said
    assert listener_pids("127.0.0.1", port).pids == tuple(sorted(first + second))
    assert {answering("127.0.0.1", port) for _ in range(101)} == {*first, *second}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.7", "::ffff:127.0.0.1", "0.0.0.0", "::1", "::"])
def test_an_ipv6_wildcard_listener_serves_both_families(start: Start, address: str) -> None:
    port, pids = start(SERVER, "::", str(quiet_port()), "0").said
    assert listener_pids(address, port) == (tuple(pids), True, None)
    assert answering(address, port) in pids


def test_an_ipv6_only_listener_does_not_serve_ipv4(start: Start) -> None:
    port, pids = start(SERVER, "::", str(quiet_port()), "0", "v6only").said
    assert listener_pids("::1", port).pids == tuple(pids)
    found = listener_pids("127.0.0.1", port)
    assert found.pids == ()
    assert "give --pid" in str(found.reason)
    with pytest.raises(ConnectionRefusedError):
        answering("127.0.0.1", port)


def test_one_port_at_two_addresses(start: Start) -> None:
    port, one = start(SERVER, "127.0.0.1", str(quiet_port()), "0").said
    _, two = start(SERVER, "127.0.0.2", str(port), "0").said
    assert listener_pids("127.0.0.1", port).pids == tuple(one)
    assert listener_pids("127.0.0.2", port).pids == tuple(two)
    assert listener_pids("127.0.0.3", port).pids == ()


def test_an_exact_address_hides_the_wildcard_and_ipv4_hides_a_dual_stack_socket(start: Start) -> None:
    port, exact = start(SERVER, "127.0.0.1", str(quiet_port()), "0", "reuseport").said
    _, wildcard = start(SERVER, "0.0.0.0", str(port), "0", "reuseport").said
    _, dual = start(SERVER, "::", str(port), "0", "reuseport").said
    for address, pids in (("127.0.0.1", exact), ("127.0.0.2", wildcard), ("::1", dual)):
        assert listener_pids(address, port).pids == tuple(pids)
        assert {answering(address, port) for _ in range(11)} == set(pids)


def test_a_listener_of_another_network_namespace_is_another_one(start: Start, as_root: None) -> None:
    port, pids = start(SERVER, "0.0.0.0", "0", "0").said
    inside = start(SERVER, "0.0.0.0", str(port), "0", within=("unshare", "--net")).said[1]
    assert listener_pids("127.0.0.1", port).pids == tuple(pids)
    assert inside[0] not in pids
    program = start(SERVER, "0.0.0.0", "0", "0", within=("unshare", "--net"))
    found = listener_pids("127.0.0.1", program.said[0])
    assert (found.pids, found.complete) == ((), True)
    assert "in this network namespace" in str(found.reason)


def test_an_address_of_another_host_has_no_processes_here(start: Start) -> None:
    port, _ = start(SERVER, "0.0.0.0", "0", "0").said
    assert listener_pids("198.51.100.23", port) == ((), True, "the target is not on this host")
    assert listener_pids("2001:db8::23", port) == ((), True, "the target is not on this host")


def test_ip_nonlocal_bind_makes_no_address_local(start: Start, as_root: None) -> None:
    namespace = 'echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind && exec "$@"'
    within = ("unshare", "--net", "sh", "-c", namespace, "sh")
    assert start(FINDER, "198.51.100.23", "80", within=within).said[2] == "the target is not on this host"


def test_an_ipv6_link_local_target_with_its_scope(start: Start, as_root: None) -> None:
    setup = (
        "ip link set lo up && ip link add left type veth && ip link set left up && "
        'ip -6 address add fe80::17/64 dev left nodad && exec "$@"'
    )
    probe = (
        "import socket, sys, os, json\n"
        "from connprobe.observe.listeners import listener_pids\n"
        "info = socket.getaddrinfo('fe80::17%left', 0, type=socket.SOCK_STREAM)[0][4]\n"
        "listener = socket.socket(socket.AF_INET6); listener.bind(info); listener.listen()\n"
        "port = listener.getsockname()[1]\n"
        "scope = socket.if_nametoindex('left')\n"
        "found = [listener_pids(f'fe80::17%{s}', port) for s in ('left', scope)]\n"
        "print(json.dumps([os.getpid(), found, listener_pids('fe80::18%left', port)]))\n"
    )
    pid, found, other = start(probe, within=("unshare", "--net", "sh", "-c", setup, "sh")).said
    assert found == [[[pid], True, None]] * 2
    assert other[2] == "the target is not on this host"


def test_another_users_listener_is_reported_as_not_readable(start: Start, as_root: None) -> None:
    port, _ = start(SERVER, "127.0.0.1", "0", "0").said
    pids, complete, reason = start(FINDER, "127.0.0.1", str(port), "nobody").said
    assert (pids, complete) == ([], False)
    assert "run as root or give --pid" in reason


def test_ones_own_listener_is_complete_without_privilege(start: Start, as_root: None) -> None:
    # setpriv(1) and not setuid(2) alone: only exec makes a process that gave up root readable to its user.
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    port, served = start(SERVER, "127.0.0.1", "0", "2", within=nobody).said
    pids, complete, reason = start(FINDER, "127.0.0.1", str(port), "nobody").said
    assert (pids, complete, reason) == (sorted(served), True, None)


def test_one_process_with_several_listeners_of_a_group(start: Start) -> None:
    port, pids = start(
        SERVER.replace("pids = [", MORE + "pids = [", 1), "127.0.0.1", "0", "1", "reuseport"
    ).said
    assert len(listen_sockets(port)) == 5
    assert listener_pids("127.0.0.1", port) == (tuple(pids), True, None)


def test_a_listener_above_the_descriptors_looked_at_is_not_passed_off_as_absent(start: Start) -> None:
    padding = "padding = [os.dup(0) for _ in range(1024)]\n"
    code = SERVER.replace("listener = ", f"{padding}listener = ", 1)
    port, _ = start(code, "127.0.0.1", "0", "0").said
    found = listener_pids("127.0.0.1", port)
    assert (found.pids, found.complete) == ((), False)
    assert "--pid" in str(found.reason)


def test_descriptors_are_never_listed(start: Start) -> None:
    """5,003 more descriptors than the listener; psutil's own count shows that a listing would be noticed."""
    code = SERVER.replace("pids = [", "padding = [os.dup(0) for _ in range(5003)]\npids = [", 1)
    port, pids = start(code, "127.0.0.1", "0", "0").said
    watch = (
        "import json, sys\n"
        "listed = []\n"
        "sys.addaudithook(lambda event, args: listed.append(str(args[0]))"
        " if event in ('os.listdir', 'os.scandir') else None)\n"
        "import psutil\n"
        "from connprobe.observe.listeners import listener_pids\n"
        "from connprobe.observe.process import ProcessGroup\n"
        "pids, *_ = listener_pids('127.0.0.1', int(sys.argv[1]))\n"
        "fds = ProcessGroup(pids).sample(0.0).fds\n"
        "listed.remove('/proc')\n"
        "before = [path for path in listed if '/fd' in path]\n"
        "psutil.Process(pids[0]).num_fds()\n"
        "print(json.dumps([pids, fds, before, [path for path in listed if '/fd' in path]]))\n"
    )
    found, fds, before, after = start(watch, str(port)).said
    assert found == pids
    assert fds is None or fds >= 5003  # None: before Linux 6.2
    assert before == []
    assert after == [f"/proc/{pids[0]}/fd"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_where_netlink_is_refused_proc_serves_and_is_named(start: Start, host: str) -> None:
    number = {"x86_64": "41", "aarch64": "198"}.get(platform.machine())
    if number is None:
        pytest.skip("add this machine's number of socket(2) to the test")
    port, pids = start(SERVER, host, "0", "2").said
    found = start(WITHOUT_NETLINK, host, str(port), number).said
    assert found[:2] == [sorted(pids), True]
    assert "/proc/net/tcp" in found[2]
    assert "not supported" in found[2]
    elsewhere = start(WITHOUT_NETLINK, "198.51.100.23", str(port), number).said
    assert elsewhere == [[], True, "the target is not on this host"]


def test_where_netlink_is_refused_a_server_can_be_started(start: Start) -> None:
    number = {"x86_64": "41", "aarch64": "198"}.get(platform.machine())
    if number is None:
        pytest.skip("add this machine's number of socket(2) to the test")
    assert start(STARTER_WITHOUT_NETLINK, "", "", number).said == [True, True, 1]


def test_proc_and_sock_diag_tell_the_same(start: Start) -> None:
    port, _ = start(SERVER, "127.0.0.3", str(quiet_port()), "0").said
    start(SERVER, "::ffff:127.0.0.5", str(port), "0")
    start(SERVER, "::1", str(port), "0", "v6only")
    told = listen_sockets(port)
    assert sorted(str(entry.address) for entry in told) == ["127.0.0.3", "127.0.0.5", "::1"]
    assert {entry.uid for entry in told} == {os.geteuid()}
    assert [entry._replace(v6only=None) for entry in listen_sockets_from_proc(port)] == [
        entry._replace(v6only=None, backlog=None, drops=None, cookie=None) for entry in told
    ]


def made(address: str, family: int, *, v6only: bool | None = False, interface: int = 0) -> ListenSocket:
    return ListenSocket(ip_address(address), family, v6only, interface, 0, 1)


def test_sockets_bound_to_an_interface() -> None:
    plain = made("0.0.0.0", socket.AF_INET)
    on_lo, on_eth = plain._replace(interface=1), plain._replace(interface=2)
    target = ip_address("127.0.0.1")
    assert reached_sockets([plain, on_eth], target) == [plain]
    assert reached_sockets([plain, on_lo, on_eth], target) == [on_lo]
    assert reached_sockets([on_eth], target) == []
    scoped = made("fe80::1", socket.AF_INET6, v6only=True, interface=2)
    assert reached_sockets([scoped], ip_address("fe80::1"), 2) == [scoped]
    assert reached_sockets([scoped], ip_address("fe80::1"), 3) == []


def test_an_untold_v6only_counts_as_the_default_unless_ipv4_has_its_own() -> None:
    untold = made("::", socket.AF_INET6, v6only=None)
    plain = made("0.0.0.0", socket.AF_INET)
    assert reached_sockets([untold], ip_address("127.0.0.1")) == [untold]
    assert reached_sockets([untold, plain], ip_address("127.0.0.1")) == [plain]


@pytest.mark.parametrize("address", ["localhost", "", "fe80::1%nosuchinterface"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4 or IPv6|interface"):
        listener_pids(address, 80)
