"""nginx and HAProxy answer, and hold what their configuration says."""

from contextlib import suppress

from connprobe.observe.declared import haproxy, nginx
from connprobe.observe.sockdiag import listen_sockets
from running import eventually
from targets.conftest import COUNT, Crowd, Serve, get, silent, until


def test_nginx_answers_and_keeps_the_connection(serve: Serve, crowd: Crowd) -> None:
    served = serve("nginx", worker_connections="101")
    assert (served.ready.protocol, served.ready.http_mode) == ("http", "keepalive")
    connections = crowd(served, COUNT)
    for _ in range(2):
        for each in connections:
            each.sendall(get())
            assert until(each, b"ok\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert silent(connections)


def test_nginx_pending_holds_requests_to_the_last_entry_of_its_table(serve: Serve, crowd: Crowd) -> None:
    served = serve("nginx", worker_connections="101", mode="pending")
    assert served.ready.http_mode == "longpoll"
    assert eventually(lambda: len(served.family_tree()) == 2)
    (ceiling,) = nginx.ceilings(served.family_tree(), [served.port], False)
    assert ceiling.capacity == 99
    connections = crowd(served, 99)
    for each in connections:
        each.sendall(get())
    (one_more,) = crowd(served, 1)
    with suppress(ConnectionError):
        one_more.sendall(get())
        assert one_more.recv(1) == b""
    assert silent(connections)


def test_haproxy_answers_up_to_its_maxconn(serve: Serve, crowd: Crowd) -> None:
    served = serve("haproxy", maxconn=str(COUNT), threads="2")
    assert (served.ready.protocol, served.ready.http_mode) == ("http", "keepalive")
    (ceiling,) = haproxy.ceilings([served.pid], [served.port], False)
    assert ceiling.capacity == COUNT
    connections = crowd(served, COUNT)
    for each in connections * 2:
        each.sendall(get())
        assert until(each, b"ok\n").startswith(b"HTTP/1.1 200 OK\r\n")
    (one_more,) = crowd(served, 1)
    one_more.sendall(get())
    assert eventually(lambda: [each.depth for each in listen_sockets(served.port)] == [1])
    assert silent([*connections, one_more])
    connections.pop().close()
    assert until(one_more, b"ok\n")
