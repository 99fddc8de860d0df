"""`connprobe pipeline` on real servers: those that wait, those that bound what waits, and their bad days."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import msgspec
import pytest

from connprobe.model import PipelineRecord
from connprobe.observe.sockdiag import listen_sockets
from running import CHECKOUT, PATIENCE_S, Command, Run, eventually

Begin = Callable[..., Command]
Pipelines = Callable[..., tuple[Run, PipelineRecord]]
WAITING = (sys.executable, str(CHECKOUT / "tests" / "pipelined.py"))
QUICK = ("--steps", "2", "--count", "3000")
SCHEMA = json.loads((CHECKOUT / "docs" / "pipeline.schema.json").read_text())


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    commands: list[Command] = []

    def start(*arguments: str) -> Command:
        commands.append(Command("pipeline", *arguments, results=tmp_path / "results"))
        return commands[-1]

    yield start
    for command in commands:
        command.end()


@pytest.fixture
def pipeline(begin: Begin) -> Pipelines:
    def run(*arguments: str, code: int = 0) -> tuple[Run, PipelineRecord]:
        return checked(begin(*arguments).finish(100), code)

    return run


def ended(run: Run, code: int) -> Run:
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    return run


def checked(run: Run, code: int) -> tuple[Run, PipelineRecord]:
    """What every run owes: its exit code, no traceback, a record of its schema, and counts that add up."""
    ended(run, code)
    assert run.directory is not None
    text = (run.directory / "pipeline.json").read_bytes()
    jsonschema.validate(json.loads(text), SCHEMA)
    line = {"$ref": "#/$defs/PipelineSample", "$defs": SCHEMA["$defs"]}
    for sample in (run.directory / "samples.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(sample), line)
    record = msgspec.json.decode(text, type=PipelineRecord)
    assert record.pending != 0 or record.pending_most == 0
    assert (record.pending or 0) <= (record.received or 0) <= record.received_most <= record.sent
    assert (record.pending or 0) <= record.pending_most <= record.received_most
    assert all(
        (getattr(record, name) is None) == (name in record.unknown) for name in ("received", "pending")
    )
    assert record.answers.early + (record.answers.released or 0) == sum(record.answers.statuses.values())
    for step in record.steps:
        assert step.pending == step.received - step.answered
    if run.stdout.startswith("{"):
        assert msgspec.json.decode(run.stdout, type=PipelineRecord) == record
    else:
        assert run.stdout.splitlines()[0] == record.headline
    return run, record


def phases(run: Run) -> set[str]:
    assert run.directory is not None
    lines = (run.directory / "samples.jsonl").read_text().splitlines()
    return {json.loads(line)["phase"] for line in lines}


def need_node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node: apt-get install nodejs")
    return node


def test_node_keeps_every_request_and_the_cost_of_one_is_told(pipeline: Pipelines) -> None:
    need_node()
    run, record = pipeline("--server", "node-pipeline", "--steps", "4", "--count", "8009", "--json")
    assert (record.outcome, record.ended, record.received_by) == ("done", "count", "read")
    assert (record.sent, record.received, record.pending) == (8009, 8009, 8009)
    assert [step.pending for step in record.steps] == [2003, 4005, 6007, 8009]
    assert {step.socket_bytes for step in record.steps} == {0}
    cost = {each.metric: each for each in record.growth}["heap_bytes"]
    assert cost.low <= cost.per_connection <= cost.high
    assert 1000 < cost.per_connection < 2500  # request, response, their headers, and Node's own two queues
    assert record.runtime is not None
    assert record.limits[0].resource == "heap"
    assert record.answers.released == record.answers.expected == 8009
    assert record.answers.statuses == {"200": 8009}
    assert record.answers.in_order is True
    assert phases(run) >= {"start", "ramp", "settle"}  # 8,009 may be released between two looks


def test_the_end_of_its_heap_is_predicted_and_met(pipeline: Pipelines) -> None:
    need_node()
    heap = ("--set", "heap_mb=32", "--memory-bound", "1GB")
    run, record = pipeline("--server", "node-pipeline", *heap, "--count", "6007", "--verify")
    assert (record.outcome, record.ended) == ("done", "died")
    assert record.verified is not None
    assert (record.verified.side, record.verified.resource) == ("server", "heap")
    assert record.verified.error is not None
    assert abs(record.verified.error) < 0.1
    assert run.says("The server held 6,007 requests of one connection pending; each takes")


def test_node_stops_reading_once_answers_pile_up_behind_one_that_waits(
    pipeline: Pipelines, tmp_path: Path
) -> None:
    script = tmp_path / "first_waits.js"
    script.write_text(
        "let first = true;\n"
        "require('node:http').createServer((request, response) => {\n"
        "  if (first) { first = false; return; }\n"
        "  response.end('ok');\n"
        "}).listen(0, '127.0.0.1');\n"
    )
    run, record = pipeline("--count", "100003", "--steps", "2", "--", need_node(), str(script))
    assert (record.outcome, record.ended) == ("done", "stopped_reading")
    assert record.received is not None
    assert 0 < record.received < record.sent < record.requested
    assert record.answers.early == 0
    assert run.says(
        f"The server stopped reading after {record.received:,} requests of one connection: it bounds"
    )


def test_one_that_waits_answers_when_it_is_told(pipeline: Pipelines, free_port: Callable[[], int]) -> None:
    told = ("--release-path", "/release", "--steps", "4", "--count", "4001")
    run, record = pipeline(*told, "--", *WAITING, str(free_port()), "hoard=10000")
    assert (record.outcome, record.pending, record.answers.released) == ("done", 4001, 4001)
    assert record.answers.in_order is None  # its answers name nothing
    assert "answers.in_order" in record.unknown
    cost = {each.metric: each for each in record.growth}["uss_bytes"]
    assert cost.per_connection == pytest.approx(10_050, rel=0.05)  # what it hoards, the object, and malloc's
    assert record.runtime is None
    assert "runtime" in record.unknown
    assert run.says("All 4,001 were answered when they were released.")


def test_one_that_stops_reading_is_a_result_to_the_request(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    run, record = pipeline(
        *QUICK, "--release-path", "/release", "--", *WAITING, str(free_port()), "stop-at=997"
    )
    assert (record.outcome, record.ended) == ("done", "stopped_reading")
    assert (record.received, record.pending) == (997, 997)
    last = record.steps[-1]
    assert last.sent > 997
    assert last.socket_bytes == last.sent * record.request_bytes - 997 * record.request_bytes
    assert record.answers.released == record.answers.expected == 997
    assert run.says(
        "The server stopped reading after 997 requests of one connection: it bounds what is pending"
    )


def test_one_that_answers_at_once_has_nothing_pending(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    run, record = pipeline(*QUICK, "--", *WAITING, str(free_port()), "at-once", "numbered", code=4)
    assert (record.outcome, record.ended) == ("missed", "answered")
    assert record.answers.early == record.received == record.sent == 1500  # the first step, and no further
    assert record.answers.in_order is True
    assert run.says("It answers at once (1,500 of 1,500): nothing can be pending.")


def test_one_that_dies_is_said_to(pipeline: Pipelines, free_port: Callable[[], int]) -> None:
    run, record = pipeline(*QUICK, "--", *WAITING, str(free_port()), "die-at=2003", code=4)
    assert (record.outcome, record.ended) == ("missed", "died")
    assert record.ended_by == "the server died: exit status 7"
    assert record.pending is not None
    assert 1500 <= record.pending <= 2003 <= record.pending_most
    assert [step.pending for step in record.steps] == [1500]
    assert run.says("until the server died: exit status 7")
    assert run.directory is not None
    assert (run.directory / "server.log").read_text() == "no more: died as told\n"


# Ends when the first request comes, of which it reads nothing.
STARTLED = """
import os, select, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
one, _ = server.accept()
select.select([one], [], [])
os._exit(7)
"""


def test_where_nothing_was_read_before_the_death_no_number_is_made_up(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    run, record = pipeline(*QUICK, "--", sys.executable, "-c", STARTLED, str(free_port()), code=4)
    assert record.ended == "died"
    assert (record.received, record.pending, record.verified) == (None, None, None)
    assert 0 < record.pending_most == record.received_most == record.sent
    assert record.unknown["pending"].endswith(f"at most {record.sent:,}")
    assert "verified" in record.unknown
    assert run.says(
        f"The server held between 0 and {record.sent:,} requests of one connection pending, until"
    )


def test_one_that_dies_before_it_was_looked_at_held_nobody_knows_how_many(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    command = ("--", *WAITING, str(free_port()), "die-at=2003")
    run, record = pipeline("--steps", "2", "--count", "6000", *command, code=4)
    assert record.ended == "died"
    assert (record.pending or 0) <= 2003 <= record.pending_most
    assert record.pending_most > (record.pending or 0)  # what else was in the window
    assert run.says(f"held between {record.pending or 0:,} and {record.pending_most:,} requests")
    if record.pending is None:
        assert record.verified is None
        assert "verified" in record.unknown
    else:
        assert record.verified is not None
        assert (record.verified.connections, record.verified.most) == (record.pending, record.pending_most)


def test_node_that_dies_of_its_heap_before_the_count_is_said_to(pipeline: Pipelines) -> None:
    need_node()
    small = ("--set", "heap_mb=16", "--memory-bound", "1GB")
    _, record = pipeline("--server", "node-pipeline", *small, "--count", "100003", code=4)
    assert (record.outcome, record.ended) == ("missed", "died")
    assert record.verified is not None
    assert record.verified.resource == "heap"
    assert record.pending is not None
    assert 3000 < record.pending < 20_000


def test_it_is_shown_again(pipeline: Pipelines, free_port: Callable[[], int]) -> None:
    run, record = pipeline(*QUICK, "--", *WAITING, str(free_port()))
    assert run.directory is not None
    page = run.directory / "report.html"
    made = page.read_text()
    assert run.says(f"report   {page}")
    assert "Memory over pending requests" in made
    page.unlink()
    for place in (run.directory, run.directory / "pipeline.json"):
        drawn = ended(Command("report", "--format", "html", str(place)).finish(30), 0)
        assert drawn.stdout.strip() == str(page)
        assert page.read_text() == made
        tables = ended(Command("report", "--format", "markdown", str(place)).finish(30), 0)
        assert "### Steps" in tables.stdout
    shown, said = (
        Command("report", *more, str(run.directory / "pipeline.json")).finish(30)
        for more in ((), ("--json",))
    )
    assert ended(shown, 0).stdout.splitlines()[0] == record.headline
    assert "step 2" in shown.stdout
    assert msgspec.json.decode(ended(said, 0).stdout, type=PipelineRecord) == record
    (run.directory / "pipeline.json").write_text("{")
    broken = Command("report", str(run.directory)).finish(30)
    assert "pipeline.json is damaged" in ended(broken, 1).stderr


def test_one_that_closes_the_connection_is_said_to(pipeline: Pipelines, free_port: Callable[[], int]) -> None:
    _, record = pipeline(*QUICK, "--", *WAITING, str(free_port()), "close-at=2003", code=4)
    assert (record.outcome, record.ended) == ("missed", "lost")
    assert record.ended_by in ("the server closed the connection", "the server reset the connection")
    assert (record.pending or 0) <= 2003 <= record.pending_most


def test_answers_out_of_order_and_missing_ones_are_told(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    told = (*QUICK, "--release-path", "/release", "--timeout", "3s", "--")
    run, record = pipeline(*told, *WAITING, str(free_port()), "backwards", code=4)
    assert (record.answers.released, record.answers.in_order) == (3000, False)
    assert run.says("NOT in the order of the requests")
    run, record = pipeline(*told, *WAITING, str(free_port()), "half", code=4)
    assert (record.answers.expected, record.answers.released) == (3000, 1500)
    assert run.says("1,500 of 3,000 were answered when they were released: no more answers came.")


def test_a_release_that_is_refused_is_told(pipeline: Pipelines) -> None:
    need_node()
    nowhere = ("--release-path", "/nowhere", "--timeout", "3s")
    run, record = pipeline(*QUICK, "--server", "node-pipeline", *nowhere, code=4)
    assert (record.answers.expected, record.answers.released) == (3000, 0)
    assert run.says("0 of 3,000 were answered when they were released")


def test_memory_is_kept_below_its_bound(pipeline: Pipelines, free_port: Callable[[], int]) -> None:
    bound = ("--memory-bound", "100MB", "--count", "1000003", "--steps", "100")
    run, record = pipeline(*bound, "--", *WAITING, str(free_port()), "hoard=20000")
    assert (record.outcome, record.ended) == ("done", "memory_bound")
    assert record.peak_rss_bytes is not None
    # On top comes what was under way: 20 kB for each request of 256 kB, and what 20 ms bring.
    assert 100_000_000 <= record.peak_rss_bytes < 400_000_000
    assert record.pending is not None
    assert record.pending < 20_000
    assert run.says("RSS reached the bound of 100 MB (--memory-bound)")


def test_a_bound_below_what_the_server_has_leaves_nothing_to_measure(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    run, record = pipeline("--memory-bound", "1MB", "--", *WAITING, str(free_port()), code=4)
    assert (record.outcome, record.ended, record.pending) == ("missed", "memory_bound", 0)
    assert run.says("RSS reached the bound of 1 MB (--memory-bound)")


def test_a_bound_that_this_host_has_not_is_refused(
    begin: Begin, free_port: Callable[[], int], tmp_path: Path
) -> None:
    mark = tmp_path / "started"
    run = ended(begin("--memory-bound", "900TB", "--", "touch", str(mark)).finish(), 3)
    assert run.says("memory for the server")
    assert run.says("900,000,000 MB, as --memory-bound says")
    assert not mark.exists()
    assert run.directory is None


def test_requests_come_at_the_rate_that_is_asked_for(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    slowly = ("--rate", "500", "--count", "400", "--steps", "2")
    _, record = pipeline(*slowly, "--", *WAITING, str(free_port()))
    assert record.pending == 400
    assert record.requests_per_s is not None
    assert record.requests_per_s < 550


def test_a_server_that_runs_already_is_attached_to_and_left_alone(
    pipeline: Pipelines, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with subprocess.Popen([*WAITING, str(port)]) as server:
        try:
            assert eventually(lambda: bool(listen_sockets(port)))
            _, record = pipeline(*QUICK, "--target", f"127.0.0.1:{port}", "--release-path", "/release")
            assert record.server_pids == (server.pid,)
            assert record.answers.released == 3000
            assert server.poll() is None
        finally:
            server.terminate()
            server.wait(PATIENCE_S)


def test_ctrl_c_ends_the_server_too(begin: Begin, free_port: Callable[[], int]) -> None:
    command = begin("--rate", "100", "--", *WAITING, str(free_port()))
    command.sampled("ramp")
    command.interrupt()
    _, record = checked(command.finish(), 130)
    assert (record.outcome, record.ended) == ("interrupted", "interrupted")


def test_the_plan_touches_nothing(begin: Begin, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    run = ended(begin("--dry-run", "--json", "--memory-bound", "5MB", "--", "touch", str(mark)).finish(), 0)
    assert json.loads(run.stdout)["plan"]["memory_bound_bytes"] == 5_000_000
    assert not mark.exists()
    assert run.directory is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no server is named"),
        (("--server", "node-ws"), "the server node-ws does not speak HTTP"),
        (("--memory-bound", "much", "--", "true"), "'much' is not a size"),
        (("--rate", "0", "--", "true"), "--rate 0 is not a positive number"),
        (("--path", "poll", "--", "true"), "--path 'poll' is not a path"),
        (("--release-path", "/a b", "--", "true"), "--release-path '/a b' is not a path"),
        (("--pid", "1"), "--pid does not say where to connect to"),
    ],
)
def test_what_makes_no_sense_is_refused(begin: Begin, arguments: tuple[str, ...], said: str) -> None:
    assert ended(begin(*arguments).finish(), 2).says(said)


def test_one_that_ends_at_once_is_quoted(begin: Begin) -> None:
    run = ended(begin("--", "sh", "-c", "echo no license >&2; exit 3").finish(), 1)
    assert run.says("the server ended before it listened (exit status 3); its last words: no license")
