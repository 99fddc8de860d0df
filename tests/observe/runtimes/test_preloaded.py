"""The preload in real Node processes, and answers that no preload would give."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from connprobe.observe.runtimes import HeapUnknown, Preparation, Runtime, attach, place, preloaded, prepare
from connprobe.observe.runtimes.interface import Where
from running import eventually
from started import KEEPING, Ended, Started

MiB = 1 << 20
ARRAY = 8 + 32 + 16 + 100 * 8  # bytes in V8 with 8-byte pointers: where it is kept, the object, its elements
Node = Callable[..., Started]

CLUSTER = """
const cluster = require('cluster');
if (cluster.isPrimary) {
  const kept = [];
  for (let i = 0; i < 100000; i++) kept.push({ i });
  const workers = [cluster.fork(), cluster.fork()];
  const listening = workers.map((worker) => new Promise((done) => worker.on('listening', done)));
  Promise.all(listening).then(() => console.log(JSON.stringify(workers.map((each) => each.process.pid))));
  process.stdin.on('end', () => process.exit()).resume();
  globalThis.kept = kept;
} else {
  const share = cluster.worker.id * 20000;
  globalThis.kept = Array.from({ length: share }, () => new Array(100).fill(null));
  require('net').createServer().listen(0);
}
"""


def attached(pids: list[int], prepared: Preparation) -> Runtime:
    runtime, reason = attach(pids, prepared, inspect=False)
    assert runtime is not None, reason
    return runtime


def test_the_live_heap_grows_by_what_is_kept(node: Node, prepared: Preparation) -> None:
    server = node(KEEPING, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    before = runtime.heap().live_bytes
    assert server.ask("keep 29989") == 29989
    grown = runtime.heap().live_bytes - before
    assert grown == pytest.approx(29989 * ARRAY, rel=0.02)


def test_what_was_dropped_is_not_in_it(node: Node, prepared: Preparation) -> None:
    server = node(KEEPING, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    first = runtime.heap().live_bytes
    server.ask("waste 20011")
    assert runtime.heap().live_bytes < first + 20011 * ARRAY / 100


@pytest.mark.parametrize("megabytes", [40, 83])
def test_it_gives_up_at_its_old_space(node: Node, prepared: Preparation, megabytes: int) -> None:
    """Filled by 1 % at a time, each of which a collection moves into the old generation."""
    server = node(KEEPING, f"--max-old-space-size={megabytes}", environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    last = runtime.heap()
    (ceiling,) = runtime.ceilings()
    assert last.capacity_bytes == ceiling.capacity == megabytes * MiB
    assert ceiling.kept_free == 1.5 * MiB
    assert last.early_bytes == int(0.8 * megabytes * MiB)
    server.ask(f"keep {int(0.9 * (megabytes * MiB - last.live_bytes)) // ARRAY}")
    with suppress(HeapUnknown, Ended, BrokenPipeError):
        for _ in range(20):
            last = runtime.heap()
            server.ask(f"keep {megabytes * MiB // 100 // ARRAY}")
    assert server.process.wait(timeout=30) == -signal.SIGABRT
    assert 0.94 < last.live_bytes / (megabytes * MiB) <= 1.01


def test_readings_near_the_limit_do_no_harm(node: Node, prepared: Preparation) -> None:
    """V8 counts collections above 80 % that free little, and ends a process after four: ours do not."""
    server = node(KEEPING, "--max-old-space-size=40", environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    server.ask(f"keep {(int(0.88 * 40 * MiB) - runtime.heap().live_bytes) // ARRAY}")
    readings = [runtime.heap() for _ in range(11)]
    assert all(0.87 < each.live_bytes / (40 * MiB) < 0.92 for each in readings)
    assert server.ask("keep 1") > 1


def test_its_ceiling_tells_whose_and_how_to_lift_it(node: Node, prepared: Preparation) -> None:
    server = node(KEEPING, "--max-old-space-size=64", environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    assert re.fullmatch(r"Node \d+\.\d+ \(V8\)", runtime.name)
    (ceiling,) = runtime.ceilings()
    assert (ceiling.resource, ceiling.metric, ceiling.unit) == ("heap", "heap_bytes", "bytes")
    assert not ceiling.exact
    assert ceiling.scope == f"server (pid {server.pid})"
    assert ceiling.source.startswith("v8.")
    assert "--max-old-space-size=128" in ceiling.fix


def test_its_ceiling_stays_when_it_dies(node: Node, prepared: Preparation) -> None:
    server = node(KEEPING, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    runtime.heap()
    before = runtime.ceilings()
    server.process.kill()
    server.process.wait()
    with pytest.raises(HeapUnknown):
        runtime.heap()
    assert runtime.ceilings() == before


def test_of_a_cluster_it_is_the_fullest_worker(node: Node, prepared: Preparation) -> None:
    server = node(CLUSTER, environment=prepared.environment)
    first, second = server.said
    runtime = attached([server.pid, first, second], prepared)
    assert runtime.heap().live_bytes > 40000 * ARRAY
    (ceiling,) = runtime.ceilings()
    assert ceiling.scope == f"server (pid {second})"
    assert ceiling.note is not None
    assert "each of 2 processes" in ceiling.note
    os.kill(second, signal.SIGKILL)
    assert eventually(lambda: not Path("/proc", str(second)).exists())
    assert 20000 * ARRAY < runtime.heap().live_bytes < 40000 * ARRAY


# Worker threads: of 32 MB, and as the process; then one without the preload, and one that answers nobody.
THREADS = """
const { Worker, isMainThread, parentPort, threadId } = require('worker_threads');
if (isMainThread) {
  const limits = { maxOldGenerationSizeMb: 32 };
  const workers = [
    new Worker(__filename, { resourceLimits: limits }), new Worker(__filename),
    new Worker('setInterval(() => {}, 1000)', { eval: true, env: {} }),
    new Worker('Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)', { eval: true }),
  ];
  const kept = [];
  let online = 0;
  workers.forEach((each) => each.on('online', () => {
    if (++online === workers.length) console.log(workers.map((each) => each.threadId));
  }));
  workers.forEach((each) => each.on('message', (said) => console.log(JSON.stringify(said))));
  require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const [which, number] = line.split(' ').map(Number);
    if (which) return workers[which - 1].postMessage(number);
    for (let i = 0; i < number; i++) kept.push(new Array(100).fill(null));
    console.log(kept.length);
  }).on('close', () => process.exit());
} else {
  const kept = [];
  parentPort.on('message', (number) => {
    for (let i = 0; i < number; i++) kept.push(new Array(100).fill(null));
    parentPort.postMessage(kept.length);
  });
}
"""


def test_of_worker_threads_it_is_the_one_that_ends_first(node: Node, prepared: Preparation) -> None:
    server = node(THREADS, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    start = runtime.heap()
    assert start.where == Where(server.pid)
    assert {where.thread for where in start.all_live_bytes} == {0, 1, 2}
    server.ask("0 2003")
    assert runtime.heap().where == Where(server.pid)
    server.ask("2 2503")
    assert runtime.heap().where == Where(server.pid, 2)  # its share grew the most, of equal limits
    server.ask("1 20011")
    now = runtime.heap()
    assert now.where == Where(server.pid, 1)
    assert now.capacity_bytes == 32 * MiB
    grown = now.live_bytes - start.all_live_bytes[Where(server.pid, 1)]
    assert grown == pytest.approx(20011 * ARRAY, rel=0.02)
    (ceiling,) = runtime.ceilings()
    assert ceiling.scope == f"server (pid {server.pid}, worker thread 1)"
    assert "maxOldGenerationSizeMb: 64" in ceiling.fix
    assert ceiling.note is not None
    assert "2 worker threads did not tell: their heaps are in no figure" in ceiling.note


def test_a_worker_thread_gives_up_where_it_is_said_to(node: Node, prepared: Preparation) -> None:
    server = node(THREADS, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    where = Where(server.pid, 1)
    live = runtime.heap().all_live_bytes[where]
    server.ask(f"1 {int(0.8 * (32 * MiB - live)) // ARRAY}")
    with suppress(HeapUnknown, Ended, BrokenPipeError):
        for _ in range(40):
            last = runtime.heap()
            live = last.all_live_bytes.get(where, 0)
            if not live:
                break
            before = live
            server.ask(f"1 {32 * MiB // 100 // ARRAY}")
    assert 0.94 < before / (32 * MiB) <= 1.01


def test_options_that_were_there_stay(node: Node) -> None:
    preparation = prepare({"NODE_OPTIONS": "--max-old-space-size=57 --no-warnings"})
    server = node(KEEPING, environment=preparation.environment)
    assert attached([server.pid], preparation).heap().capacity_bytes == 57 * MiB
    preparation.close()


def test_a_path_with_spaces_that_no_unix_socket_could_have(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ("a 'long' \"path\" \\ " + 120 * "x")
    home.mkdir(mode=0o700)
    monkeypatch.setattr(place, "OTHERS", ())
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    preparation = prepare({})
    assert preparation.directory.is_relative_to(home)
    server = node(KEEPING, environment=preparation.environment)
    assert attached([server.pid], preparation).heap().live_bytes > MiB
    preparation.close()
    assert list(home.iterdir()) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else: sudo scripts/test")
def test_a_server_of_another_user_who_may_read_nothing_of_ours(
    run: Callable[..., Started], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """connprobe's files and the usual directory for such files are root's alone."""
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o700)
    copies = [Path(shutil.copy(file, ours)) for file in preloaded.FILES]
    monkeypatch.setattr(preloaded, "FILES", copies)
    monkeypatch.setattr(tempfile, "tempdir", str(ours))
    preparation = prepare({})
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    server = run(*nobody, "node", "-e", KEEPING, environment=preparation.environment)
    assert "\nUid:\t65534\t" in Path(f"/proc/{server.pid}/status").read_text()
    assert attached([server.pid], preparation).heap().live_bytes > MiB
    looks = (preparation.directory, preparation.directory.parent, preparation.directory.parent.parent)
    for look in looks:
        found = subprocess.run([*nobody, "ls", look], capture_output=True, timeout=20)
        assert b"Permission denied" in found.stderr
    preload = preparation.directory.with_name(preloaded.PRELOAD.name)
    found = subprocess.run([*nobody, "dd", f"of={preload}"], input=b"x", capture_output=True, timeout=20)
    assert b"Permission denied" in found.stderr
    preparation.close()


def test_what_killed_runs_left_is_taken_away_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "OTHERS", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    running, killed, young = (prepare({}).place for _ in range(3))
    for each in (running, killed):
        os.utime(each.directory.parent, (1, 1))
    os.close(killed._lock)  # as the kernel does
    os.close(young._lock)
    prepare({}).close()
    assert {each.name for each in tmp_path.iterdir()} == {
        each.directory.parent.name for each in (running, young)
    }
    running.close()


@pytest.mark.parametrize("code", [0, 7])
def test_a_program_ends_as_it_would_without(node: Node, prepared: Preparation, code: int) -> None:
    server = node(KEEPING, environment=prepared.environment)
    attached([server.pid], prepared).heap()
    server.tell(f"exit {code}")
    assert server.process.wait(timeout=20) == code


def test_a_program_with_nothing_to_do_ends_by_itself_and_says_no_word(prepared: Preparation) -> None:
    ran = subprocess.run(
        ["node", "-e", "setTimeout(() => console.log('done'), 5)"],
        env={**os.environ, **prepared.environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_without_its_directory_the_preload_is_silent(prepared: Preparation) -> None:
    environment = {**os.environ, **prepared.environment, "CONNPROBE_HEAP_SOCKETS": "/nowhere/at/all"}
    command = ["node", "-p", "process._getActiveHandles().length"]
    with_it = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)
    without = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert (with_it.stdout, with_it.stderr) == (without.stdout, without.stderr)


def test_a_helper_of_npm_does_not_answer(prepared: Preparation, tmp_path: Path) -> None:
    helper = tmp_path / "npm-cli.js"
    helper.write_text("console.log(require('fs').readdirSync(process.env.CONNPROBE_HEAP_SOCKETS).length)")
    server = tmp_path / "server.js"
    server.write_bytes(helper.read_bytes())
    environment = {**os.environ, **prepared.environment}
    for script, sockets in ((helper, "0\n"), (server, "1\n")):
        ran = subprocess.run(
            ["node", script], env=environment, capture_output=True, text=True, timeout=20, check=True
        )
        assert ran.stdout == sockets


def test_a_busy_event_loop_is_not_waited_for(
    node: Node, prepared: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = node(KEEPING, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    assert server.ask("spin 60000") == "spins"
    monkeypatch.setattr(preloaded, "TIMEOUT_S", 0.2)
    with pytest.raises(HeapUnknown, match="its event loop is busy"):
        runtime.heap()


def test_a_process_that_dies_while_it_is_asked(node: Node, prepared: Preparation) -> None:
    server = node(KEEPING, environment=prepared.environment)
    runtime = attached([server.pid], prepared)
    server.ask("spin 60000")

    def kill() -> None:
        assert eventually(has_a_question)
        server.process.kill()

    def has_a_question() -> bool:
        """A connection waits at the socket, beside the socket itself."""
        sockets = Path("/proc/net/unix").read_text().splitlines()
        return sum(line.endswith(f"/{server.pid}") for line in sockets) > 1

    killing = threading.Thread(target=kill)
    killing.start()
    with pytest.raises(HeapUnknown, match="it ended"):
        runtime.heap()
    killing.join()
    with pytest.raises(HeapUnknown, match="no Node process"):
        runtime.heap()


@contextmanager
def answering(prepared: Preparation, answer: bytes) -> Iterator[None]:
    """This process, as a server whose socket says `answer` to every question, and no end."""
    path = prepared.directory / str(os.getpid())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1)
                    try:
                        connection.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    path.unlink()


HEAP = b'{"version":"v20.1.0","limit":100000000,"spaces":{"old_space":5},"flags":[],"worker":false}\n'


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"null\n",
        b"[" * 50_000 + b"\n",
        b"x" * (1 << 20),
        b"\xff\xfe\n",
        HEAP.replace(b":5}", b":-5}"),
        HEAP.replace(b":5}", b":1e999}"),
        HEAP.replace(b":5}", b':"5"}'),
        HEAP.replace(b"100000000", b"0"),
        HEAP.replace(b"100000000", b"99999999999999999999999"),
        HEAP.replace(b"v20.1.0", b"v20.1.0\\u001b[2J"),
        HEAP.replace(b"false", b"1"),
    ],
)
def test_hostile_answers_are_refused(prepared: Preparation, answer: bytes) -> None:
    with answering(prepared, HEAP):
        runtime = attached([os.getpid()], prepared)
        assert runtime.heap().live_bytes == 5
    with answering(prepared, answer), pytest.raises(HeapUnknown, match="something else"):
        runtime.heap()


def test_a_socket_of_another_process_counts_for_nothing(node: Node, prepared: Preparation) -> None:
    """Whatever name it has: here that of a process of the server's."""
    server = node(KEEPING, environment=prepared.environment)
    with answering(prepared, HEAP):
        (prepared.directory / str(os.getpid())).rename(prepared.directory / str(server.pid))
        runtime, reason = attach([server.pid], prepared, inspect=False)
        (prepared.directory / str(server.pid)).rename(prepared.directory / str(os.getpid()))
    assert runtime is None
    assert reason is not None
