"""What people type on the command line, as values: targets, durations, headers, port ranges. Pure."""

import ipaddress
import re
from shlex import quote

from connprobe.errors import UsageError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, section 5.5
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def parse_duration(text: str, option: str) -> float:
    """`30s`, `5m`, `250ms`, `1.5h`, or seconds. Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text!r} is not a duration", fix=f"{option} 30s (or 250ms, 5m, 2h)")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > 30 * 86400:
        raise UsageError(f"{option} {text!r} is longer than 30 days", fix=f"{option} 24h")
    return seconds


_URL = re.compile(
    r"(?P<scheme>https?|wss?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-~]*)?"
)


def parse_target(text: str, option: str = "--target") -> tuple[str, int]:
    """`host:8080`, `10.0.0.1:80`, `[::1]:8080` as (host, port). Raises UsageError."""
    fix = f"{option} host:8080, or {option} [::1]:8080"
    text = text.strip()
    if (url := _URL.fullmatch(text)) is not None:
        port = url["port"] or ("443" if url["scheme"] in ("https", "wss") else "80")
        options = [f"{option} {url['host']}:{port}"]
        if option == "--target":
            options += [f"--path {quote(url['path'])}"] * bool(url["path"])
            options += ["--tls"] * (url["scheme"] in ("https", "wss"))
            options += ["--protocol http"] * url["scheme"].startswith("http")
        raise UsageError(f"{option} {text!r} is not HOST:PORT but a URL", fix=" ".join(options))
    if re.search(r"[\s/@?#\x00-\x1f\x7f]", text):
        raise UsageError(f"{option} {text!r} is not HOST:PORT", fix=f"{fix}; a path goes to --path")
    if _is_ipv6(text):
        raise UsageError(f"{option} {text!r}: an IPv6 address needs brackets", fix=f"{option} [{text}]:8080")
    host, colon, port_text = text.rpartition(":")
    if not colon or not host or port_text.endswith("]"):
        raise UsageError(f"{option} {text!r} has no port", fix=fix)
    if not re.fullmatch(r"[0-9]{1,9}", port_text) or not 0 < int(port_text) < 65536:
        raise UsageError(f"{option} {text!r}: the port {port_text!r} is not between 1 and 65535", fix=fix)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise UsageError(f"{option} {text!r}: {host!r} is no IPv6 address", fix=fix)
    elif _is_ipv6(host):
        raise UsageError(
            f"{option} {text!r}: an IPv6 address needs brackets", fix=f"{option} [{host}]:{port_text}"
        )
    elif re.search(r"[:\[\]]", host):
        raise UsageError(f"{option} {text!r} is not HOST:PORT", fix=fix)
    return _ascii_name(host, f"{option} {text!r}"), int(port_text)


def _ascii_name(host: str, named: str) -> str:
    """An international name as DNS and the Host header spell it (xn--…)."""
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise UsageError(f"{named} holds no host name", fix="spell it in ASCII (xn--…)") from error


def _is_ipv6(text: str) -> bool:
    _, _, zone = text.partition("%")
    try:
        return ":" not in zone and ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value`. Raises UsageError."""
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
        raise UsageError(f"--header {text!r} is not a header", fix="--header 'Authorization: Bearer …'")
    return name, value.strip(" \t")


def parse_ports(text: str) -> tuple[int, int]:
    """`1024-65535`. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text.strip())
    if match is None or not 1024 <= int(match[1]) <= int(match[2]) < 65536:
        raise UsageError(
            f"--source-ports {text!r} is not a range of unprivileged ports", fix="--source-ports 1024-65535"
        )
    return int(match[1]), int(match[2])


def parse_count_or_auto(text: str, option: str) -> int | None:
    """A positive number, or None for `auto`. Raises UsageError."""
    if text == "auto":
        return None
    digits = text.replace(",", "").replace("_", "")
    if not re.fullmatch(r"[0-9]{1,12}", digits) or int(digits) == 0:
        raise UsageError(f"{option} {text!r} is neither auto nor a positive number", fix=f"{option} auto")
    return int(digits)


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """`64MB` (10^6), `64MiB` (2^20), `1.7GB`, or bytes. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    size = 0
    if match is not None:
        size = round(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))
    if not 0 < size < 1 << 60:
        raise UsageError(f"{option} {text!r} is not a size", fix=f"{option} 64MB (or 64MiB, 1.7GB)")
    return size


def parse_alias(text: str) -> tuple[str, str]:
    """`IFACE:CIDR` as (interface, addresses still as text). Raises UsageError."""
    interface, colon, addresses = text.partition(":")
    if not colon or not re.fullmatch(r"[^\s/:]{1,15}", interface) or not addresses:
        raise UsageError(f"--alias {text!r} is not IFACE:CIDR", fix="--alias eth0:10.0.0.0/24")
    return interface, addresses
