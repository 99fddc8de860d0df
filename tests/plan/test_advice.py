import re

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from connprobe import causes
from connprobe.app import app
from connprobe.plan.advice import ADVICE, advice
from connprobe.plan.details import STATUS_ADVICE


@pytest.mark.parametrize("established", [False, True])
@pytest.mark.parametrize("cause", causes.CAUSES)
def test_every_cause_has_advice_for_both_phases(cause: str, established: bool) -> None:
    said = advice(cause, established, None)
    assert said.side in ("client", "server", "network")
    for text in (said.meaning, said.fix):
        assert text == text.strip()
        assert text.isprintable()
        assert "\n" not in text


def test_no_advice_for_causes_that_do_not_exist() -> None:
    assert {cause for cause, _ in ADVICE} == set(causes.CAUSES)
    with pytest.raises(KeyError):
        advice("gremlins", False, None)


@pytest.mark.parametrize("command", ["hold", "limit", "load"])
def test_each_command_has_the_options_that_its_fixes_name(command: str) -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    has = {option for it in group.commands[command].params for option in it.opts}
    said = [advice(*key, command=command) for key in ADVICE]
    said += [advice(causes.REJECTED, False, str(status), command=command) for status in STATUS_ADVICE]
    said += [advice(causes.TIMEOUT, False, "the response did not end", command=command)]
    for it in said:
        named = set(re.findall(r"--[a-z-]+", it.fix.replace("curl -v --http1.1", "")))
        assert named <= has, it.fix


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        (causes.NO_SOURCE_PORT, "--alias IFACE:CIDR"),
        (causes.NO_SOURCE_PORT, "net.ipv4.ip_local_port_range"),
        (causes.TIMEOUT, "nstat -az TcpExtListenOverflows"),
        (causes.TIMEOUT, "net.core.somaxconn"),
        (causes.FD_LIMIT, "LimitNOFILE"),
        (causes.EOF, "worker_connections"),
        (causes.WORKER_LOST, "dmesg"),
    ],
)
def test_the_remedy_is_concrete(cause: str, remedy: str) -> None:
    assert remedy in advice(cause, False).fix


@pytest.mark.parametrize(
    ("detail", "side", "remedy"),
    [
        ("503 Service Unavailable", "server", "--rate"),
        ("429 Too Many Requests", "server", "--rate"),
        ("HTTP/1.1 404 Not Found", "client", "--path"),
        ("401 Unauthorized", "client", "--header"),
        ("403 Forbidden", "client", "--header"),
        ("301 Moved Permanently", "client", "--tls"),
        ("400 Bad Request", "client", "--tls"),
        ("200 OK", "client", "--protocol http"),
        ("502 Bad Gateway", "server", "ip_local_port_range"),
    ],
)
def test_a_status_sharpens_the_advice(detail: str, side: str, remedy: str) -> None:
    said = advice(causes.REJECTED, False, detail)
    assert said.side == side
    assert remedy in said.fix


@pytest.mark.parametrize("detail", ["418 I'm a teapot", "", "nonsense", "50355", None])
def test_an_unknown_status_gets_the_general_advice(detail: str | None) -> None:
    assert advice(causes.REJECTED, False, detail) == ADVICE[causes.REJECTED, False]


@pytest.mark.parametrize(
    ("detail", "remedy"),
    [
        ("CERTIFICATE_VERIFY_FAILED: self-signed certificate", "--ca FILE"),
        ("certificate verify failed: self-signed certificate (_ssl.c:1002)", "--ca FILE"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate", "--ca FILE"),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'x'", "--sni"),
        ("CERTIFICATE_VERIFY_FAILED certificate verify failed: certificate has expired", "renew"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "leave out --tls"),
        ("[SSL: TLSV1_UNRECOGNIZED_NAME] tlsv1 unrecognized name", "--sni"),
    ],
)
def test_what_openssl_says_sharpens_the_advice(detail: str, remedy: str) -> None:
    assert remedy in advice(causes.TLS, False, detail).fix
    assert advice(causes.TLS, False, detail) != ADVICE[causes.TLS, False]


@pytest.mark.parametrize(
    ("cause", "detail", "side", "remedy"),
    [
        (causes.TIMEOUT, "no answer to SYN", "server", "TcpExtListenOverflows"),
        (causes.TIMEOUT, "connected, but the request was not answered", "server", "top -H"),
        (causes.UNREACHABLE, "EACCES: Permission denied", "client", "nft"),
        (causes.FD_LIMIT, "ENOBUFS: No buffer space available", "client", "memory.max"),
    ],
)
def test_stages_and_errnos_sharpen_the_advice(cause: str, detail: str, side: str, remedy: str) -> None:
    said = advice(cause, False, detail)
    assert said.side == side
    assert remedy in said.fix
    assert said != ADVICE[cause, False]


def test_a_detail_of_the_handshake_says_nothing_about_a_later_loss() -> None:
    assert advice(causes.REJECTED, True, "404 Not Found") == ADVICE[causes.REJECTED, True]


def test_every_status_is_one_a_server_can_refuse_with() -> None:
    assert all(200 <= status < 600 for status in STATUS_ADVICE)
