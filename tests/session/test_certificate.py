"""The certificate of a comparison: for loopback alone, and nobody else may read its key."""

import ssl
import stat
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.session.certificate import make_certificate, openssl

pytestmark = pytest.mark.skipif(openssl() is None, reason="needs openssl: apt-get install openssl")


def test_it_is_verified_for_loopback_and_for_nothing_else(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "tls")
    for place in made:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.both)
    for name, good in (("127.0.0.1", True), ("localhost", True), ("example.org", False)):
        client = ssl.create_default_context(cafile=str(made.certificate))
        assert shakes_hands(client, server, name) is good, name
    assert not shakes_hands(ssl.create_default_context(), server, "localhost"), "nobody else trusts it"
    made.remove()
    assert list((tmp_path / "tls").iterdir()) == []
    made.remove()


def test_its_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(path.is_absolute() for path in make_certificate(Path("tls")))


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls").chmod(0o777)
    with pytest.raises(RunFailed, match="not a directory of ours alone"):
        make_certificate(tmp_path / "tls")


def shakes_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bool:
    """In memory, to the end; False: the certificate is refused."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return all(end.version() is not None for end in ends)
