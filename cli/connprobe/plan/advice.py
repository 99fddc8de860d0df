"""What each cause of a failed or lost connection means, whose side it is, and what to change.

One table, so that the terminal, the report and the tests say the same; `details` sharpens it.
"""

from collections.abc import Mapping
from typing import Final

from connprobe import causes
from connprobe.plan.details import Advice, sharpen

__all__ = ["ADVICE", "Advice", "advice"]

_PORT_FIX = (
    "--source-ports 1024-65535, more source addresses with --alias IFACE:CIDR, "
    'or: sysctl -w net.ipv4.ip_local_port_range="1024 65535"'
)
_WORKER_FIX = "look for the OOM killer: dmesg -T | grep -i 'out of memory'; then a lower --count, or memory"
_FILES_FIX = (
    "raise the limit of open files: ulimit -Hn (systemd: LimitNOFILE=), sysctl fs.nr_open fs.file-max; "
    "or more --workers"
)
_DIED = "journalctl -k | grep -i 'killed process', then the server's log"

# A SYN that meets a full accept queue is dropped whatever tcp_abort_on_overflow says; only the third
# packet of a handshake is answered with RST, and the client is ESTABLISHED by then: it sees ECONNRESET,
# never ECONNREFUSED (tcp_conn_request, tcp_check_req and tcp_reset of the kernel).
ADVICE: Final[Mapping[tuple[str, bool], Advice]] = {
    (causes.REFUSED, False): Advice(
        "nothing listens on that address and port (any more), or a firewall rejects it",
        "server",
        "on the server: ss -ltnp; if it stopped listening during the run: " + _DIED,
    ),
    (causes.REFUSED, True): Advice(
        "the connection was lost and a new one was refused: the server stopped listening",
        "server",
        _DIED,
    ),
    (causes.RESET, False): Advice(
        "reset before the handshake was answered: the process closed it with data unread, died, "
        "or its accept queue overflowed with tcp_abort_on_overflow=1",
        "server",
        "the server's log for limits (EMFILE, maximum connections); nstat -az TcpExtListenOverflows; "
        "sysctl net.ipv4.tcp_abort_on_overflow; a lower --rate",
    ),
    (causes.RESET, True): Advice(
        "the server, or a proxy or NAT on the way, threw the connection away",
        "server",
        _DIED + "; behind a proxy or load balancer raise its idle timeout, or keep it busy: --ping 20s",
    ),
    (causes.EOF, False): Advice(
        "accepted, then closed without an answer: usually a limit of the server "
        "(file descriptors, worker_connections, maximum connections)",
        "server",
        "on the server: grep 'open files' /proc/PID/limits and its log for EMFILE; raise LimitNOFILE= "
        "and its own maximum (nginx: worker_connections)",
    ),
    (causes.EOF, True): Advice(
        "the server closed it: an idle timeout, a limit on the lifetime, or an exit",
        "server",
        "raise its idle timeout (nginx proxy_read_timeout, HAProxy timeout tunnel, Node keepAliveTimeout) "
        "or keep it busy: --ping 20s; after an exit: " + _DIED,
    ),
    (causes.TIMEOUT, False): Advice(
        "no answer in time: SYNs dropped by a full accept queue, a server too busy to answer, "
        "or a firewall that drops",
        "server",
        "on the server: nstat -az TcpExtListenOverflows and ss -ltn; if it overflows raise the backlog of "
        "listen() and sysctl net.core.somaxconn; else a lower --rate or a longer --timeout",
    ),
    (causes.TIMEOUT, True): Advice(
        "the peer no longer answers: too busy, gone without a FIN, or forgotten by a NAT or firewall",
        "server",
        "top -H -p PID on the server; on the way: sysctl net.netfilter.nf_conntrack_tcp_timeout_established; "
        "--ping below the shortest idle timeout",
    ),
    (causes.NO_SOURCE_PORT, False): Advice(
        "every source port of the source addresses is taken towards this target (EADDRNOTAVAIL)",
        "client",
        _PORT_FIX,
    ),
    (causes.NO_SOURCE_PORT, True): Advice(
        "the connection was lost and no source port was free for a new one (TIME_WAIT counts)",
        "client",
        _PORT_FIX,
    ),
    (causes.FD_LIMIT, False): Advice(
        "this process or host has no file descriptor left (EMFILE, ENFILE)", "client", _FILES_FIX
    ),
    (causes.FD_LIMIT, True): Advice(
        "the connection was lost and no file descriptor was left for a new one (EMFILE, ENFILE)",
        "client",
        _FILES_FIX,
    ),
    (causes.UNREACHABLE, False): Advice(
        "no route to the target, or none from this source address",
        "network",
        "ip route get TARGET from SOURCE; an added source address needs a route back to it on the server",
    ),
    (causes.UNREACHABLE, True): Advice(
        "the way to the server was lost: a route, a link or an address went away",
        "network",
        "ip monitor route link address; a source address removed under way takes its connections along",
    ),
    (causes.REJECTED, False): Advice(
        "the server answered, but not with the status a connection needs",
        "server",
        "see what it says: curl -i http://TARGET/PATH; then --path, --header, --protocol or --tls",
    ),
    (causes.REJECTED, True): Advice(
        "the connection was lost or refused further requests with a status: a limit of the server or proxy",
        "server",
        "the server's log; its limits on requests per connection (nginx keepalive_requests) and on rates",
    ),
    (causes.PROTOCOL, False): Advice(
        "the answer is not what this protocol allows: another service on this port, or TLS without --tls",
        "server",
        "check --target, --protocol and --tls; see the bytes: curl -v --http1.1 http://TARGET/PATH",
    ),
    (causes.PROTOCOL, True): Advice(
        "the peer broke the protocol on an open connection",
        "server",
        "the detail names the rule that was broken; a proxy may have written into an upgraded connection; "
        "--protocol tcp holds without reading",
    ),
    (causes.TLS, False): Advice(
        "the TLS handshake failed",
        "server",
        "openssl s_client -connect TARGET -servername NAME shows why; then --ca FILE, --sni NAME or no --tls",
    ),
    (causes.TLS, True): Advice(
        "TLS broke on an open connection: an alert, a bad record, or an end without close_notify",
        "server",
        "the server's error log; a proxy that ends TLS has timeouts and limits of its own",
    ),
    (causes.WORKER_LOST, False): Advice(
        "a worker process of connprobe ended before it had opened these", "client", _WORKER_FIX
    ),
    (causes.WORKER_LOST, True): Advice(
        "a worker process of connprobe ended and took its connections along", "client", _WORKER_FIX
    ),
}


# What the fixes above say of hold, and another command does not have.
_NO_PING: Final = (
    (", or keep it busy: --ping 20s", ""),
    (" or keep it busy: --ping 20s", ""),
    ("; --ping below the shortest idle timeout", ""),
)
_OTHERWISE: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "limit": _NO_PING,
    "load": (
        *_NO_PING,
        ("--http-mode stream holds these", "--path of a response that ends; a stream is for connprobe hold"),
        ("; --protocol tcp holds without reading", ""),
        ("a lower --count", "a lower --concurrency"),
    ),
}


def advice(cause: str, established: bool, detail: str | None = None, *, command: str = "hold") -> Advice:
    """What `cause` (one of `causes.CAUSES`) means before or after a connection was established.

    `detail` is what the worker counted under the cause, e.g. "503 Service Unavailable": it makes the
    answer sharper where it is known. Its fix names options of `command` alone. Raises KeyError for a cause
    outside the list.
    """
    said = ADVICE[cause, established]
    if detail is not None and not established:
        said = sharpen(cause, detail) or said
    fix = said.fix
    for words, others in _OTHERWISE.get(command, ()):
        fix = fix.replace(words, others)
    return said._replace(fix=fix)
