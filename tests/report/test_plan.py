import io

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from connprobe.model import HoldPlan, Obstacle
from connprobe.report.plan import collapse, render_obstacles, render_plan


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=80, force_terminal=False), file


def test_the_plan_names_every_figure(plan: HoldPlan) -> None:
    out, file = console()
    render_plan(plan, out)
    text = file.getvalue()
    for expected in (
        *("400,000 connections to 127.0.0.1:8080", "21, 20,000 file descriptors each", "19,047 to 19,048"),
        *(
            "8: 127.0.0.2 … 127.0.0.4",
            "64,512, 1024-65535",
            "bound one by one",
            "3.0 GB",
            "needs no alias",
        ),
    ):
        assert expected in text
    assert "server processes" not in text
    assert "to add" not in text


def test_workers_that_are_threads_are_named(plan: HoldPlan) -> None:
    out, file = console()
    render_plan(msgspec.structs.replace(plan, worker_processes=2), out)
    assert "21 (threads of 2 processes), 20,000 file descriptors each" in file.getvalue()


def test_a_plan_with_its_own_server_and_addresses(plan: HoldPlan) -> None:
    out, file = console()
    changed = msgspec.structs.replace(
        plan,
        target=None,
        server_processes=23,
        source_ports=None,
        alias_interface="eth0",
        alias_addresses=("10.0.0.2", "10.0.0.3"),
    )
    render_plan(changed, out)
    text = file.getvalue()
    assert "the embedded server" in text
    assert "23" in text
    assert "10.0.0.2 … 10.0.0.3 on eth0, removed at the end" in text
    assert "ip_local_port_range" in text


def test_obstacles_come_all_at_once_one_line_each() -> None:
    out, file = console()
    fix = "--alias eth0:10.0.0.0/28 " * 7
    obstacles = [
        Obstacle(what="source ports", have="28,232", need="400,000", fix=fix.strip()),
        Obstacle(what="[red]memory", have="\x1b[2J1 GB", need="2.9 GB", fix="a lower --count"),
    ]
    render_obstacles(obstacles, out)
    assert file.getvalue().splitlines() == [
        "refused: 2 obstacles; nothing was touched",
        f"  source ports: have 28,232, need 400,000; fix: {fix.strip()}",
        "  [red]memory: have 1 GB, need 2.9 GB; fix: a lower --count",
    ]


def test_addresses_collapse_into_ranges() -> None:
    assert collapse(["10.0.0.3", "10.0.0.2", "10.0.0.3", "10.0.0.9", "::1", "::2"]) == (
        "10.0.0.2 … 10.0.0.3, 10.0.0.9, ::1 … ::2"
    )
    assert collapse(["", ""]) == "chosen by the kernel"
    assert collapse(f"10.0.{n}.1" for n in range(7)).endswith("10.0.3.1 and 3 more")


@given(st.lists(st.one_of(st.ip_addresses().map(str), st.text(max_size=9)), max_size=29))
def test_any_addresses_collapse(addresses: list[str]) -> None:
    assert collapse(addresses)
