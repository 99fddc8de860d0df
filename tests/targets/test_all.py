"""What holds for every server, and for those with a WebSocket."""

import signal
import socket
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Request as Upgrade

from connprobe import targets
from connprobe.observe.sockdiag import listen_sockets
from running import eventually
from targets.conftest import COUNT, Crowd, Serve, silent


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", targets.NAMES)
def test_it_ends_at_once_with_all_it_started_and_has_said_nothing(
    serve: Serve, crowd: Crowd, name: str, address: str
) -> None:
    if address == "::1" and not ipv6():
        pytest.skip("no ::1 here: sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    served = serve(name, address=address)
    connections = crowd(served, COUNT)
    assert [str(each.address) for each in listen_sockets(served.port)] == [address]
    family = served.family_tree()
    assert served.end() in (0, -signal.SIGTERM)
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
    assert not silent(connections)
    if name != "embedded":
        assert served.output.read_text() == ""


class Client:
    """wsproto's side of a WebSocket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.peer = sock, WSConnection(ConnectionType.CLIENT)
        sock.sendall(self.peer.send(Upgrade(host="x", target="/")))
        self.next()

    def next(self) -> object:
        """The next event, which is to be the only one."""
        while True:
            data = self.sock.recv(65536)
            self.peer.receive_data(data or None)
            events = list(self.peer.events())
            if events and getattr(events[-1], "message_finished", True):
                (event,) = events
                return event

    def ask(self, event: Ping | TextMessage | CloseConnection) -> object:
        self.sock.sendall(self.peer.send(event))
        return self.next()


@pytest.mark.parametrize(
    ("name", "options"),
    [("node-ws", {}), ("node-ws", {"workers": "3"}), ("embedded", {}), ("embedded", {"processes": "2"})],
)
def test_a_websocket_server_echoes(serve: Serve, crowd: Crowd, name: str, options: dict[str, str]) -> None:
    served = serve(name, **options)
    assert served.ready.protocol == "ws"
    clients = [Client(each) for each in crowd(served, COUNT)]
    assert silent([each.sock for each in clients])
    for number, client in enumerate(clients):
        answer = client.ask(TextMessage(f"message {number}, café"))
        assert isinstance(answer, TextMessage)
        assert answer.data == f"message {number}, café"
        pong = client.ask(Ping(b"are you there"))
        assert isinstance(pong, Pong)
        assert pong.payload == b"are you there"
    closed = clients[0].ask(CloseConnection(1000))
    assert isinstance(closed, CloseConnection)
    assert closed.code == 1000
    assert silent([each.sock for each in clients[1:]])
