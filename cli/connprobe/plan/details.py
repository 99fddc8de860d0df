"""What the exact detail of a failed connection adds: an HTTP status, OpenSSL's words, a stage, an errno."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from connprobe import causes
from connprobe.model import Side


class Advice(NamedTuple):
    """One line on what happened, whose side it is, and a command or setting that changes it."""

    meaning: str
    side: Side
    fix: str


_AUTH = Advice(
    "the server wants credentials, or dislikes the Origin",
    "client",
    "--header 'Authorization: Bearer ...', or --header 'Origin: https://...'",
)
_ORDINARY = Advice(
    "not a WebSocket endpoint: it answered like an ordinary page",
    "client",
    "--path of the WebSocket endpoint, or --protocol http; a proxy must pass Upgrade on",
)
_REDIRECT = Advice(
    "the endpoint has moved, often to https or to a path with a slash",
    "client",
    "curl -sI http://TARGET/PATH | grep -i location; then --tls or --path",
)
_BUSY = Advice(
    "a limit of the server or of the proxy before it",
    "server",
    "raise it (HAProxy maxconn, nginx limit_conn, a load balancer's quota), or go slower: --rate",
)
_UPSTREAM = Advice(
    "the proxy could not reach its own server: that is down, full, or out of the proxy's source ports",
    "server",
    "the proxy's error log; EADDRNOTAVAIL there: widen net.ipv4.ip_local_port_range on the proxy, "
    "or give it more upstream addresses (nginx proxy_bind)",
)

STATUS_ADVICE: Final[Mapping[int, Advice]] = {
    **dict.fromkeys((200, 204), _ORDINARY),
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECT),
    400: Advice(
        "the server dislikes this request: plain HTTP on a TLS port, Host, Origin, or a lost Upgrade",
        "client",
        "--tls, or --header 'Origin: https://...'; behind nginx: proxy_set_header Upgrade $http_upgrade",
    ),
    401: _AUTH,
    403: _AUTH,
    **dict.fromkeys(
        (404, 405),
        Advice("there is nothing at this path, or it does not take GET", "client", "--path /ENDPOINT"),
    ),
    408: Advice(
        "the server gave up waiting for the request: one side is too busy to keep up",
        "server",
        "a lower --rate or --concurrency; look at the CPU of both sides",
    ),
    421: Advice(
        "the name of the TLS handshake and the Host header do not match", "client", "--sni NAME of the host"
    ),
    426: Advice(
        "the server wants an upgrade it did not see: a WebSocket endpoint, or a proxy that drops Upgrade",
        "client",
        "--protocol ws; nginx: proxy_http_version 1.1 and proxy_set_header Upgrade $http_upgrade",
    ),
    429: Advice(
        "the server limits how often or how much one client address may connect",
        "server",
        "raise that limit, go slower with --rate, or use more source addresses: --alias IFACE:CIDR",
    ),
    500: Advice("the server failed while it answered", "server", "the server's error log"),
    502: _UPSTREAM,
    503: _BUSY,
    504: _UPSTREAM,
}

_FIREWALL = Advice(
    "a firewall or policy of this host forbids it (EACCES, EPERM)",
    "client",
    "nft list ruleset; the container's or service's network policy",
)

# By the details that workers count (an errno's name comes first), the sharper reading.
_PATTERNS: Final[tuple[tuple[str, re.Pattern[str], Advice], ...]] = (
    (
        causes.TIMEOUT,
        re.compile("no answer to SYN"),
        Advice(
            "no answer to the SYN: dropped by a full accept queue, a firewall or a full conntrack table",
            "server",
            "on the server: nstat -az TcpExtListenOverflows and ss -ltn; if it overflows raise the backlog "
            "of listen() and sysctl net.core.somaxconn; if not: dmesg | grep nf_conntrack, nft list ruleset",
        ),
    ),
    (
        causes.TIMEOUT,
        re.compile("in the TLS handshake|not answered"),
        Advice(
            "its kernel took the connection, the program did not answer in time: too busy, or not accepting",
            "server",
            "top -H -p PID, and ss -ltn on the server (Recv-Q: waiting in the accept queue); more processes "
            "(SO_REUSEPORT), a lower --rate or --concurrency, or a longer --timeout",
        ),
    ),
    (
        causes.TIMEOUT,
        re.compile("did not end"),
        Advice(
            "the server answered, and its response goes on: a stream",
            "server",
            "--http-mode stream holds these",
        ),
    ),
    (
        causes.PROTOCOL,
        re.compile("no keep-alive"),
        Advice(
            "the server or a proxy before it closes after each response",
            "server",
            "switch keep-alive on there (HTTP/1.1), or --protocol tcp to hold bare connections",
        ),
    ),
    (
        causes.PROTOCOL,
        re.compile("not a stream"),
        Advice("an ordinary page answered", "client", "--http-mode keepalive, or the --path of the stream"),
    ),
    (
        causes.FD_LIMIT,
        re.compile("^ENOSPC"),
        Advice(
            "this user's epoll watches are used up",
            "client",
            "sysctl -w fs.epoll.max_user_watches=10000000",
        ),
    ),
    (causes.UNREACHABLE, re.compile("^(EACCES|EPERM)"), _FIREWALL),
    (
        causes.FD_LIMIT,
        re.compile("^(ENOBUFS|ENOMEM)"),
        Advice(
            "this kernel has no memory left for another socket",
            "client",
            "slabtop -o -s c and the memory limit of the cgroup (memory.max); a lower --count",
        ),
    ),
    (
        causes.TLS,
        re.compile(r"host ?name mismatch|not valid for|ip address mismatch", re.IGNORECASE),
        Advice("the certificate is for another name", "client", "--sni NAME in the certificate"),
    ),
    (
        causes.TLS,
        re.compile(r"certificate.has.expired", re.IGNORECASE),
        Advice("the server's certificate has expired", "server", "renew it; for a test: --insecure"),
    ),
    (
        causes.TLS,
        re.compile(r"certificate.verify.failed|self.signed|unable to get (local )?issuer", re.IGNORECASE),
        Advice("the certificate is not signed by a CA trusted here", "client", "--ca FILE, or --insecure"),
    ),
    (
        causes.TLS,
        re.compile(r"wrong.version.number|http.request|record.layer.failure|packet.length", re.IGNORECASE),
        Advice("no TLS is spoken on this port", "client", "leave out --tls, or change --target"),
    ),
    (
        causes.TLS,
        re.compile(r"unrecognized.name", re.IGNORECASE),
        Advice("the server has no certificate for this name", "client", "--sni NAME"),
    ),
    (
        causes.TLS,
        re.compile(r"certificate.required", re.IGNORECASE),
        Advice(
            "the server asks for a client certificate, which connprobe does not send",
            "server",
            "ask for none on this listener (nginx: ssl_verify_client off)",
        ),
    ),
)
_STATUS = re.compile(r"(?<!\d)([1-5]\d\d)(?!\d)")


def sharpen(cause: str, detail: str) -> Advice | None:
    """What `detail` says about a connection that was never established; None: nothing known."""
    if cause == causes.REJECTED:
        status = _STATUS.search(detail)
        return STATUS_ADVICE.get(int(status[1])) if status else None
    return next((known for of, pattern, known in _PATTERNS if of == cause and pattern.search(detail)), None)
