"""`connprobe compare` as a process: real servers, small suites, and what goes wrong in them."""

import json
import os
import shutil
import signal
import socket
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest

from connprobe.model import RunRecord
from connprobe.model.bout import Bout, CompareRecord
from e2e.test_report import look
from running import CHECKOUT, Command, Run, eventually

Start = Callable[..., Command]
Write = Callable[..., str]

TCP = """
[[workload]]
name = "plain"
protocol = "tcp"
concurrency = 7
timeout_s = 5
"""
CONTROL = """
[[contestant]]
name = "control"
protocol = "tcp"
control = true
command = ["${python}", "%(targets)s/python_asyncio.py", "127.0.0.1", "${port}"]
"""
THREADS = """
[[contestant]]
name = "threads"
protocol = "tcp"
command = ["${python}", "%(targets)s/python_threads.py", "127.0.0.1", "${port}", "256"]
"""
# Echoes, until it has taken so many connections.
DYING = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
for _ in range(int(sys.argv[2])):
    one, _ = server.accept()
    while data := one.recv(4096):
        one.sendall(data)
    one.close()
print("that was \\033[31menough", flush=True)
os._exit(3)
"""
DIES = """
[[contestant]]
name = "dies"
protocol = "tcp"
command = ["${python}", "-c", '''%(dying)s''', "${port}", "23"]
"""
# Forwards to one server behind it: one connection after the other.
FORWARDS = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
def copy(a, b):
    while data := a.recv(4096):
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
while True:
    one, _ = server.accept()
    other = socket.create_connection(("127.0.0.1", int(open(sys.argv[2]).read())))
    back = threading.Thread(target=copy, args=(other, one))
    back.start()
    copy(one, other)
    back.join()
    one.close()
    other.close()
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(parts...) -> the path of a suite of them."""

    def make(*parts: str, sizes: str = "[53, 101]", repeats: int = 1) -> str:
        head = f'title = "small"\nsizes = {sizes}\nrepeats = {repeats}\n'
        text = head + "".join(parts) % {"targets": CHECKOUT / "targets", "dying": DYING}
        path = tmp_path / "suite.toml"
        path.write_text(text)
        return str(path)

    return make


def record_of(run: Run, code: int = 0) -> CompareRecord:
    """What compare.json says, checked: exit code, schema, no traceback, nothing left behind."""
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert run.directory is not None, run.stderr
    data = (run.directory / "compare.json").read_bytes()
    schema = json.loads((CHECKOUT / "docs" / "compare.schema.json").read_text())
    jsonschema.validate(json.loads(data), schema)
    assert list(run.directory.glob("tls/*")) == []
    return msgspec.json.decode(data, type=CompareRecord)


def order(record: CompareRecord) -> list[tuple[int, str, int]]:
    return [(it.size, it.contestant, it.round) for it in record.bouts]


def test_every_contestant_at_every_size_in_every_round(start: Start, write: Write) -> None:
    run = start("compare", write(TCP, CONTROL, THREADS, repeats=2), "--json").finish()
    record = record_of(run)
    assert msgspec.json.decode(run.stdout, type=CompareRecord) == record
    assert order(record) == [
        (53, "control", 1), (53, "threads", 1), (101, "control", 1), (101, "threads", 1),
        (53, "threads", 2), (53, "control", 2), (101, "threads", 2), (101, "control", 2),
    ]  # fmt: skip
    for bout in record.bouts:
        assert (bout.outcome, bout.visited, bout.failures, bout.wrong) == ("done", bout.size, {}, 0)
        assert bout.handshake_ms is not None
        assert bout.message_ms is not None
        assert (bout.handshake_ms.count, bout.message_ms.count) == (bout.size, bout.size)
        assert bout.server is not None
        assert 1_000_000 < bout.server.start_rss_bytes <= bout.server.peak_rss_bytes
        assert bout.overflows == 0
        assert bout.others is not None
        assert run.directory is not None
        kept = msgspec.json.decode((run.directory / str(bout.run) / "run.json").read_bytes(), type=RunRecord)
        assert kept.handshake_ms == bout.handshake_ms
    by_name = {(it.size, it.contestant): it for it in record.standings}
    assert len(by_name) == 4
    figure = by_name[(101, "threads")].figures["total_s"]
    totals = {(it.contestant, it.round): it.total_s or 0.0 for it in record.bouts if it.size == 101}
    ratios = [totals[("threads", number)] / totals[("control", number)] for number in (1, 2)]
    assert figure.ratios is not None
    assert (figure.ratios.low, figure.ratios.high) == pytest.approx((min(ratios), max(ratios)))
    assert figure.ratios.median == pytest.approx(sum(ratios) / 2)


def test_the_same_tables_on_the_terminal_in_markdown_and_in_the_report(start: Start, write: Write) -> None:
    run = start("compare", write(TCP, CONTROL, THREADS, sizes="[53]")).finish()
    record_of(run)
    assert run.stdout.startswith("small: 2 of 2 runs done; 2 contestants in 1 workload.\n")
    assert run.directory is not None
    page = (run.directory / "report.html").read_text()
    markdown = start("report", "--format", "markdown", str(run.directory)).finish().stdout
    again = start("report", str(run.directory)).finish().stdout
    assert again.splitlines()[0] == run.stdout.splitlines()[0]
    rows = [line for line in run.stdout.splitlines() if line.startswith("  53 threads")]
    cells = [cell.strip() for row in rows for cell in row.split("  ") if cell.strip()]
    assert len(cells) > 12
    for cell in cells:
        assert f">{cell}<" in page, cell
        assert f"| {cell} |" in markdown, cell


def test_in_a_browser_every_chart_of_a_comparison_is_drawn(
    start: Start, write: Write, tmp_path: Path
) -> None:
    run = start("compare", write(TCP, CONTROL, THREADS, sizes="[53, 67]", repeats=2)).finish()
    record_of(run)
    assert run.directory is not None
    shutil.copy(run.directory / "report.html", tmp_path)
    frames = "".join(
        f'<iframe id="{width}" src="report.html" width="{width}" style="border:0"></iframe>'
        for width in (390, 1200)
    )
    seen = look(tmp_path, frames)
    assert seen.console == []
    for width, found in seen.frames.items():
        assert found["scrolls"] <= int(width)
        names = ("total_s", "handshake_mean_ms", "message_mean_ms", "peak_rss_bytes")
        assert set(found["charts"]) == {f"w0-{name}" for name in names}
        assert all(drawn > 0 for drawn in found["charts"].values())
        assert found["traces"] == 4 * 2
        assert found["loaded"] == []


def test_who_dies_in_the_middle_is_reported_and_the_others_finish(start: Start, write: Write) -> None:
    run = start("compare", write(TCP, DIES, CONTROL, sizes="[101]")).finish()
    record = record_of(run, 4)
    dead, control = record.bouts
    assert (dead.contestant, dead.outcome) == ("dies", "died")
    assert dead.said == "dies ended (exit status 3); its last words: that was ?[31menough"
    assert dead.visited <= 23
    assert (control.contestant, control.outcome) == ("control", "done")
    assert run.says("dies, round 1 died dies ended (exit status 3)")
    assert [it.figures["total_s"].values is None for it in record.standings] == [True, False]


# Answers with what `answer` makes of a message, each connection in a thread of its own.
ANSWERS = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
def serve(one):
    while data := one.recv(4096):
        one.sendall(%s)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("data.swapcase()", "53 of 53 connections did not do all they had to: 53 wrong echoes"),
        ('b""', "; it took longer than longest_s"),
    ],
)
def test_who_answers_wrongly_or_not_at_all_is_in_no_figure(
    start: Start, write: Write, answer: str, said: str
) -> None:
    workload = TCP.replace("timeout_s = 5", "timeout_s = 2\nlongest_s = 0.5")
    odd = DIES.replace("%(dying)s", ANSWERS.replace("%s", answer)).replace("dies", "odd")
    record = record_of(start("compare", write(workload, odd, CONTROL, sizes="[53]")).finish(), 4)
    bout, control = record.bouts
    assert (bout.outcome, bout.visited) == ("missed", 0)
    assert said in str(bout.said)
    assert control.outcome == "done"
    assert record.standings[0].figures["handshake_mean_ms"].values is None


def test_who_never_listens_is_reported_with_its_last_words(start: Start, write: Write) -> None:
    broken = DIES.replace('"${port}"', '"no-port"').replace("dies", "broken")
    record = record_of(start("compare", write(TCP, broken, CONTROL, sizes="[53]")).finish(), 4)
    assert [it.outcome for it in record.bouts] == ["failed", "done"]
    assert "broken: the server ended before it listened (exit status 1)" in str(record.bouts[0].said)
    assert "ValueError" in str(record.bouts[0].said)


def test_a_backend_is_started_first_and_counts_only_where_it_should(
    start: Start, write: Write, tmp_path: Path
) -> None:
    """The proxy reads the port behind it from a template, and is told it on its command line."""
    (tmp_path / "behind.txt").write_text("${backend_port}")
    proxy = """
[[backend]]
name = "echo"
command = ["${python}", "%(targets)s/python_asyncio.py", "127.0.0.1", "${port}"]
[[backend]]
name = "counted echo"
counted = true
command = ["${python}", "%(targets)s/python_asyncio.py", "127.0.0.1", "${port}"]
"""
    for name, backend in (("alone", "echo"), ("both", "counted echo")):
        proxy += f"""
[[contestant]]
name = "{name}"
protocol = "tcp"
backends = ["{backend}"]
files = {{ "port" = "behind.txt" }}
command = ["${{python}}", "-c", '''{FORWARDS}''', "${{port}}", "${{directory}}/port"]
"""
    record = record_of(start("compare", write(TCP, proxy, sizes="[53]")).finish())
    alone, both = record.bouts
    assert alone.server is not None
    assert both.server is not None
    assert (len(alone.server.pids), len(both.server.pids)) == (1, 2)
    assert [it.text for it in record.verdicts if "no ratios" in it.text]


MISSING = """
[[contestant]]
name = "elsewhere"
protocol = "tcp"
command = ["no-such-program", "${port}"]
install = "apt-get install no-such-package"

[[contestant]]
name = "halfway"
protocol = "tcp"
command = ["no-such-command", "${port}"]
requires = ["${suite}/no-such-file"]
install = "scripts/halfway"
"""


def test_what_is_missing_is_named_with_what_installs_it(start: Start, write: Write) -> None:
    suite = write(TCP, MISSING, CONTROL, sizes="[53]")
    run = start("compare", suite).finish()
    assert (run.returncode, run.directory) == (3, None)
    assert run.says("refused: 3 obstacles; nothing was touched")
    assert run.says("contestant elsewhere (tcp): have no program no-such-program")
    assert run.says("fix: apt-get install no-such-package")
    assert run.says("contestant halfway (tcp): have no program no-such-command")
    assert run.says(f"have no {Path(suite).parent}/no-such-file")
    record = record_of(start("compare", suite, "--skip-missing").finish())
    assert [it.contestant for it in record.bouts] == ["control"]
    assert "no-such-package" in record.skipped["elsewhere (tcp)"]
    assert set(record.skipped) == {"elsewhere (tcp)", "halfway (tcp)"}
    assert record_of(start("compare", suite, "--only", "control").finish()).skipped == {}


def test_a_program_that_is_there_but_not_executable_is_told_apart(
    start: Start, write: Write, tmp_path: Path
) -> None:
    program = tmp_path / "run.sh"
    program.write_text("#!/bin/sh\n")
    suite = write(TCP, CONTROL.replace("${python}", "${suite}/run.sh"))
    run = start("compare", suite).finish()
    assert (run.returncode, run.directory) == (3, None)
    assert run.says(f"have {program} is not executable")
    assert run.says(f"fix: chmod +x {program}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "compare needs a suite"),
        (("no-such.toml",), "no-such.toml cannot be read"),
        (("SUITE", "--sizes", "5,x"), "--sizes '5,x' are not numbers of connections"),
        (("SUITE", "--only", "nobody"), "--only 'nobody': no contestant is called that"),
        (("SUITE", "--resume", "."), "--resume goes on with what was asked for then"),
        (("BAD",), "suite.toml, line 14: contestant[1].contrl: there is no such key"),
    ],
)
def test_usage_errors(start: Start, write: Write, arguments: tuple[str, ...], said: str) -> None:
    control = CONTROL if "BAD" not in arguments else CONTROL.replace("control = true", "contrl = true")
    path = write(TCP, control)
    run = start("compare", *(path if it in ("SUITE", "BAD") else it for it in arguments)).finish()
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr
    assert "fix: " in run.stderr


def test_a_template_with_a_mistake_is_named_with_its_line(start: Start, write: Write, tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text("listen ${port}\nproxy $host\n")
    contestant = CONTROL + 'files = { "x.conf" = "x.conf" }\n'
    run = start("compare", write(TCP, contestant)).finish()
    assert run.returncode == 2
    assert f"line 16: contestant[1].files.x.conf: {tmp_path}/x.conf, line 2: a $ alone" in run.stderr


def test_paths_that_no_file_of_ours_could_hold_are_refused(
    start: Start, write: Write, tmp_path: Path
) -> None:
    place = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
    os.mkdir(place)  # noqa: PTH102
    shutil.copy(write(TCP, CONTROL), f"{place}/s.toml")
    for suite, said in (
        (f"{place}/s.toml", "is not UTF-8: what has to be resumed could not be kept"),
        (write(TCP, CONTROL, 'files = { "a.conf" = "a\\u0000b" }\n'), "embedded null byte"),
    ):
        run = start("compare", suite, "--dry-run").finish()
        assert run.returncode == 2, run.stderr
        assert run.says(said), run.stderr
        assert "Traceback" not in run.stderr


def test_the_plan_alone(start: Start, write: Write) -> None:
    run = start("compare", write(TCP, CONTROL, THREADS), "--dry-run", "--json", "--sizes", "7").finish()
    plan = json.loads(run.stdout)
    assert [(it["contestant"], it["size"]) for it in plan["turns"]] == [("control", 7), ("threads", 7)]
    assert run.directory is None


def test_a_port_in_use_gives_way_to_another(start: Start, write: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        record = record_of(start("compare", write(TCP, CONTROL + f"port = {port}\n", sizes="[53]")).finish())
        assert [it.outcome for it in record.bouts] == ["done"]
        assert any(f"port {port} is in use" in it.text for it in record.verdicts)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl: apt-get install openssl")
def test_the_suite_makes_its_own_certificate(start: Start, write: Write) -> None:
    serve = """
[[workload]]
name = "secret"
tls = true
concurrency = 7
[[contestant]]
name = "serve"
tls = true
command = ["${python}", "-m", "connprobe", "serve", "--listen", "127.0.0.1:${port}", "--mode", "echo", \
"--tls", "--cert", "${certificate}", "--key", "${key}"]
"""
    run = start("compare", write(serve, sizes="[53]")).finish()
    (bout,) = record_of(run).bouts
    assert (bout.outcome, bout.visited) == ("done", 53)
    assert run.directory is not None
    kept = msgspec.json.decode((run.directory / str(bout.run) / "run.json").read_bytes(), type=RunRecord)
    assert kept.request.tls is not None
    assert not kept.request.tls.insecure
    assert stat.S_IMODE((run.directory / "tls").stat().st_mode) == 0o700


def bouts_on_disk(command: Command) -> int:
    if command.directory is None or not (command.directory / "bouts.jsonl").exists():
        return 0
    return (command.directory / "bouts.jsonl").read_text().count("\n")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_leaves_no_process_and_is_resumed(
    start: Start, write: Write, by: signal.Signals
) -> None:
    command = start("compare", write(TCP, CONTROL, THREADS, repeats=2))
    assert eventually(lambda: bouts_on_disk(command) >= 2)
    os.killpg(command.pid, by) if by is signal.SIGINT else os.kill(command.pid, by)
    run = command.finish()
    assert run.directory is not None
    before = (run.directory / "bouts.jsonl").read_bytes().splitlines()
    if by is signal.SIGKILL:
        assert not (run.directory / "compare.json").exists()
        told = start("report", str(run.directory)).finish()
        assert told.returncode == 1
        assert f"the comparison in {run.directory} is not finished" in told.stderr
        assert f"fix: connprobe compare --resume {run.directory}" in told.stderr
    else:
        record = record_of(run, 130)
        assert record.outcome == "interrupted"
        assert len(record.bouts) == len(before) < record.turns == 8
        assert f"connprobe compare --resume {run.directory}" in run.stderr
        assert run.stdout.startswith("Interrupted. small: ")
    plan = start("compare", "--resume", str(run.directory), "--dry-run").finish()
    assert plan.stdout.startswith(f"{8 - len(before)} runs; nothing was touched\n")
    resumed = start("compare", "--resume", str(run.directory)).finish()
    assert resumed.returncode == 0, resumed.stderr
    again = record_of(Run(0, resumed.stdout, resumed.stderr, run.directory))
    assert len(set(order(again))) == len(again.bouts) == 8
    kept = [msgspec.json.decode(line, type=Bout) for line in before]
    assert list(again.bouts[: len(kept)]) == kept


def test_what_a_contestant_did_before_it_went_missing_is_kept(
    start: Start, write: Write, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.touch()
    leaves = THREADS + f'requires = ["{here}"]\n'
    suite = write(TCP, CONTROL, leaves, sizes="[11]", repeats=2)
    command = start("compare", suite, "--skip-missing")
    assert eventually(lambda: bouts_on_disk(command) >= 2)
    command.interrupt()
    run = command.finish()
    assert run.directory is not None
    before = record_of(run, 130).bouts
    assert "threads" in {it.contestant for it in before}
    here.unlink()
    resumed = start("compare", "--resume", str(run.directory)).finish()
    record = record_of(Run(resumed.returncode, resumed.stdout, resumed.stderr, run.directory))
    assert record.bouts[: len(before)] == before
    assert [it.contestant for it in record.bouts].count("control") == 2
    assert record.turns == len(record.bouts)
    assert list(record.skipped) == ["threads (tcp)"]
    again = start("compare", "--resume", str(run.directory)).finish()
    assert "nothing is left to run" in again.stderr
    assert again.stdout == resumed.stdout


def test_what_a_suite_may_hold_in_secret_is_read_by_nobody_else(
    start: Start, write: Write, tmp_path: Path
) -> None:
    template = tmp_path / "server.conf"
    template.write_text("listen ${port}; password hunter2")
    template.chmod(0o600)
    holds = (
        f'environment = {{ API_KEY = "hunter3", COLOUR = "blue" }}\nfiles = {{ "a.conf" = "{template}" }}\n'
    )
    run = start("compare", write(TCP, CONTROL, holds, sizes="[11]")).finish()
    (contestant,) = record_of(run).request.suite.contestants
    assert contestant.environment == {"API_KEY": "(not recorded)", "COLOUR": "blue"}
    assert contestant.files == {"a.conf": "(not recorded)"}
    assert run.directory is not None
    files = [path for path in run.directory.rglob("*") if path.is_file()]
    hold = {path.name for path in files if b"hunter" in path.read_bytes()}
    assert hold == {"suite.json", "a.conf"}
    assert {path.stat().st_mode & 0o777 for path in files if path.name in hold} == {0o600}


def test_one_that_is_complete_is_shown_again_and_not_touched(
    start: Start, write: Write, tmp_path: Path
) -> None:
    suite = write(TCP, CONTROL, sizes="[11]")
    run = start("compare", suite).finish()
    record = record_of(run)
    directory = run.directory
    assert directory is not None
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    again = start("compare", "--resume", str(directory)).finish()
    assert (again.returncode, again.stdout) == (0, run.stdout), again.stderr
    assert f"nothing is left to run in {directory}" in again.stderr
    assert "is not what it was" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    Path(suite).write_text(Path(suite).read_text().replace("[11]", "[12]"))
    changed = start("compare", "--resume", str(directory), "--json").finish()
    assert msgspec.json.decode(changed.stdout, type=CompareRecord) == record
    assert f"{suite} is not what it was: not used" in changed.stderr
    asked = json.loads((directory / "suite.json").read_text())
    asked["place"] = "/nowhere/\x1b[31mred"
    (directory / "suite.json").write_text(json.dumps(asked))
    assert "\x1b" not in start("compare", "--resume", str(directory)).finish().stderr
    (directory / "compare.json").write_text("{")
    mended = start("compare", "--resume", str(directory)).finish()
    assert record_of(Run(mended.returncode, mended.stdout, mended.stderr, directory)).bouts == record.bouts
    assert len(list((directory / "runs").iterdir())) == 1


def test_a_comparison_that_is_running_is_not_resumed_beside_itself(
    start: Start, write: Write, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waits = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n"
    slow = DIES.replace("%(dying)s", waits + "%(dying)s")
    command = start("compare", write(TCP, slow, sizes="[11]"))
    assert eventually(lambda: command.directory is not None and any(command.directory.glob("runs/*/*.log")))
    directory = command.directory
    assert directory is not None
    (directory / "tls").mkdir()
    (directory / "tls" / "key.pem").write_text("of the first")
    second = start("compare", "--resume", str(directory)).finish()
    assert second.returncode == 1
    assert f"a comparison is running in {directory}: connprobe compare (pid {command.pid})" in second.stderr
    assert (directory / "tls" / "key.pem").read_text() == "of the first"
    assert (directory / "bouts.jsonl").read_bytes() == b""
    (directory / "tls" / "key.pem").unlink()
    go.touch()
    assert len(record_of(command.finish()).bouts) == 1


def test_an_interruption_ends_a_load_that_is_under_way(start: Start, write: Write) -> None:
    command = start("compare", write(TCP, CONTROL, sizes="[200000]"))

    def loading() -> bool:
        found = command.directory.glob("runs/*/samples.jsonl") if command.directory else ()
        return any('"phase":"load"' in each.read_text() for each in found)

    assert eventually(loading)
    command.interrupt()
    run = command.finish()
    record = record_of(run, 130)
    assert (record.bouts, record.standings, record.turns) == ((), (), 1)
    assert run.directory is not None
    (cut,) = run.directory.glob("runs/*/run.json")
    assert msgspec.json.decode(cut.read_bytes(), type=RunRecord).outcome == "interrupted"
    assert (run.directory / "bouts.jsonl").read_bytes() == b""


def test_what_is_no_comparison_cannot_be_resumed(start: Start, tmp_path: Path) -> None:
    run = start("compare", "--resume", str(tmp_path)).finish()
    assert run.returncode == 1
    assert f"{tmp_path} holds no comparison" in run.stderr


BATTLE = CHECKOUT / "targets" / "balancerbattle.toml"
CONTESTANTS = dict.fromkeys(it["name"] for it in tomllib.loads(BATTLE.read_text())["contestant"])


def test_the_suite_of_the_article_is_whole(start: Start) -> None:
    run = start("compare", "balancerbattle", "--dry-run", "--json", "--skip-missing").finish()
    plan = json.loads(run.stdout)
    assert run.returncode in (0, 3), run.stderr
    assert len(plan["turns"]) == 3 * 5 * (9 - len(plan["skipped"]))


@pytest.mark.parametrize("name", CONTESTANTS)
def test_each_contestant_of_the_article(start: Start, name: str) -> None:
    names = dict.fromkeys(("control", name))
    only = [word for it in names for word in ("--only", it)]
    run = start("compare", str(BATTLE), "--sizes", "101", "--repeats", "1", *only).finish()
    if run.returncode == 3:
        pytest.skip(
            f"not installed: {run.stderr.partition('fix: ')[2].splitlines()[0]}, scripts/balancerbattle"
        )
    record = record_of(run)
    assert {it.contestant for it in record.bouts} == set(names)
    assert {it.outcome for it in record.bouts} == {"done"}
    assert all(it.ratios is not None for st in record.standings for it in [st.figures["total_s"]])
    assert set(record.versions) == set(names)
