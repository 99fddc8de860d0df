"""Looks at several queues over readings: whose they are, and what is forgotten."""

import ipaddress

import pytest

from connprobe.kernel.accept_queue import AcceptQueue, Look
from connprobe.kernel.listeners import Endpoint
from connprobe.plan.histogram import BUCKETS
from connprobe.session.kernel import order
from connprobe.session.kernel.order import Order


def queue(inode: int, port: int, *, closed: bool = False) -> AcceptQueue:
    return AcceptQueue(
        at=Endpoint(ipaddress.ip_address("127.0.0.1"), port, 1, 1),
        inodes=(inode,),
        depth=0,
        depth_max=0,
        capacity=8,
        enqueued=0,
        accepted=0,
        overflows=0,
        drops=0,
        depths=(0,) * BUCKETS,
        closed=closed,
    )


def came_and_went(inode: int, at_us: int, after_us: int) -> list[Look]:
    return [
        Look(inode, at_us, at_us, arrived=True, closed=False),
        Look(inode, at_us + after_us, at_us + after_us + 1, arrived=False, closed=False),
    ]


def most_ms(orders: Order, port: int) -> tuple[int, float]:
    wait = orders.at(f"127.0.0.1:{port}")
    assert wait is not None
    assert wait.least is not None
    assert wait.least.max <= wait.most.max
    return wait.most.count, wait.most.max


def test_a_group_is_summed_and_others_are_left_out() -> None:
    orders = Order()
    orders.meet([queue(11, 80), queue(12, 80), queue(13, 81), queue(14, 82)], {11, 12, 13})
    assert orders.wanted == {11, 12, 13}
    orders.take([*came_and_went(11, 1000, 7000), *came_and_went(12, 1500, 3000), *came_and_went(13, 0, 9000)])
    assert most_ms(orders, 80) == (2, 7.0)
    assert most_ms(orders, 81) == (1, 9.0)
    assert orders.at("127.0.0.1:82") is None


def test_what_is_not_known_of_the_head_tells_nothing() -> None:
    orders = Order()
    orders.meet([queue(11, 80)], {11})
    first, last = came_and_went(11, 1000, 5000)
    orders.take([first, Look(11, 3000, None, arrived=True, closed=False), last])
    assert most_ms(orders, 80) == (2, 5.0)


def test_one_that_is_closed_is_known_for_some_readings_more() -> None:
    orders = Order()
    orders.meet([queue(11, 80)], {11})
    orders.meet([queue(11, 80, closed=True)], set())
    for _ in range(2):
        orders.meet([], set())
    orders.take(came_and_went(11, 1000, 5000))
    orders.meet([], set())
    assert orders.wanted == set()
    assert most_ms(orders, 80) == (1, 5.0)


def test_those_that_wait_as_it_is_closed_are_not_told() -> None:
    orders = Order()
    orders.meet([queue(11, 80)], {11})
    orders.take([Look(11, 1000, 1000, arrived=True, closed=False), Look(11, 2000, 1000, False, closed=True)])
    orders.take([Look(11, 9000, 9001, arrived=False, closed=False)])
    assert orders.at("127.0.0.1:80") is None


def test_what_comes_and_goes_for_days_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "ADDRESSES_KEPT", 5)
    orders = Order()
    for port in range(1, 31):
        orders.meet([queue(port, port)], {port})
        orders.take(came_and_went(port, 1000, 5000))
        orders.meet([queue(port, port, closed=True)], {port})
    for _ in range(4):
        orders.meet([], set())
    assert sum(orders.at(f"127.0.0.1:{port}") is not None for port in range(1, 31)) == 5
    assert orders.wanted == set()
