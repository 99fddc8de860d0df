"""What is there and what is not: each probe ends as live, or as unavailable with reason and remedy."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connprobe.data import data_dir
from connprobe.kernel import accept_queue, accept_wait, bpf
from connprobe.kernel.btf import VMLINUX, Btf, Field
from connprobe.kernel.loader import Loaded, Unavailable, load
from connprobe.kernel.probe import Hook, Probe, Rung
from kernel.conftest import live
from kernel.sockets import SLOW_S

SOURCES = Path(__file__).parents[2] / "cli"
HOOK = Hook("raw_tracepoint", "inet_sock_set_state", "count")
PLAIN = "RAW_TRACEPOINT(count) { return 0; }"
ROOT = "CapEff:\t000001ffffffffff\n"

Write = Callable[..., Probe]


def rung(name: str, hook: Hook = HOOK, *fields: Field, **defines: int) -> Rung:
    return Rung(name, (hook,), fields, defines)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, C text, rungs) -> Probe, whose text is in tmp_path."""
    shutil.copy(data_dir("probes") / "common.bpf.h", tmp_path)

    def one(name: str, text: str, *rungs: Rung) -> Probe:
        (tmp_path / f"{name}.bpf.c").write_text(text)
        return Probe(name, rungs or (rung("only"),))

    return one


@pytest.fixture(scope="module")
def possible(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips, with the remedy, where not even the least of probes can be loaded."""
    place = tmp_path_factory.mktemp("probes")
    shutil.copy(data_dir("probes") / "common.bpf.h", place)
    (place / "least.bpf.c").write_text(PLAIN)
    with load([Probe("least", (rung("only"),))], directory=place, timeout_s=SLOW_S) as loaded:
        live(loaded, "least")


def interpreter(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def python_with(path: Path, package: str) -> str:
    """An interpreter whose `bcc` is a package of these files' text: it is found before any other."""
    place = path / "packages" / "bcc"
    place.mkdir(parents=True)
    for part in package.split("--- ")[1:]:
        name, text = part.split("\n", 1)
        (place / name).write_text(text)
    run = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv = sys.argv[3:]; "
    run += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return interpreter(path / "python", f'exec {sys.executable} -c "{run}" \'{place.parent}\' "$@"')


def unavailable(loaded: Loaded, name: str) -> Unavailable:
    probe = loaded[name]
    assert isinstance(probe, Unavailable)
    return probe


def is_loaded(program: int) -> bool:
    try:
        os.close(bpf.program_by_id(program))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.parametrize(
    ("mask", "lacks"),
    [
        ("0000000000000000", "CAP_BPF and CAP_PERFMON is not held"),
        ("0000008000000000", "CAP_PERFMON is not held"),
        ("0000004000000000", "CAP_BPF is not held"),
    ],
)
def test_without_the_capabilities(mask: str, lacks: str) -> None:
    with load([accept_queue.probe(), accept_wait.probe()], status=f"CapEff:\t{mask}\n") as loaded:
        for name in ("accept_queue", "accept_wait"):
            probe = unavailable(loaded, name)
            assert lacks in probe.reason
            assert probe.fix is not None
            assert "root" in probe.fix


def test_capabilities_decide_and_not_the_user(possible: None, tmp_path: Path) -> None:
    """Another user with CAP_BPF and CAP_PERFMON alone, who may not read tracefs either."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    code = (
        "from connprobe.kernel import accept_queue, accept_wait; from connprobe.kernel.loader import load\n"
        f"with load([accept_queue.probe(), accept_wait.probe()], timeout_s={SLOW_S}) as loaded:\n"
        "    for name, probe in loaded.probes.items(): print(name, probe.rung, len(probe.detached()))"
    )
    caps = ("--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon")
    nobody = ("--reuid=65534", "--regid=65534", "--clear-groups", *caps)
    ran = subprocess.run(
        ["setpriv", *nobody, sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "setpriv: " in ran.stderr or "PermissionError" in ran.stderr:
        pytest.skip(f"{ran.stderr.strip()}: run as root, from a directory that others may read")
    assert ran.stdout.splitlines()[1:] == ["accept_wait raw tracepoint sys_exit 0"], ran.stderr
    assert ran.stdout.startswith("accept_queue raw tracepoint ")


def test_without_bcc(tmp_path: Path) -> None:
    none = interpreter(tmp_path / "none", f'exec {sys.executable} -S "$@"')
    with load([accept_queue.probe()], pythons=["/nonexistent/python", none], status=ROOT) as loaded:
        probe = unavailable(loaded, "accept_queue")
    assert f"{none}: it has none" in probe.reason
    assert "/nonexistent/python: No such file or directory" in probe.reason
    assert probe.fix is not None
    assert "apt-get install python3-bpfcc" in probe.fix


def test_the_package_of_that_name_on_pypi_is_refused(tmp_path: Path) -> None:
    """bcc 0.1.10 of PyPI, which is about lattices: it may even fail to import, for want of numpy."""
    wrong = python_with(tmp_path, "--- __init__.py\nfrom .bcc import *\n--- bcc.py\nimport numpy as np\n")
    with load([accept_queue.probe()], pythons=[wrong], status=ROOT) as loaded:
        probe = unavailable(loaded, "accept_queue")
    assert "PyPI" in probe.reason
    assert probe.fix is not None
    assert probe.fix.startswith(f"{wrong} -m pip uninstall bcc; ")
    assert "python3-bpfcc" in probe.fix


def test_an_interpreter_that_ends_does_not_answer_or_breaks(tmp_path: Path, write: Write) -> None:
    plain = write("plain", PLAIN)
    loud = interpreter(tmp_path / "loud", "echo no such thing >&2; exit 3")
    with load([plain], pythons=[loud], directory=tmp_path, status=ROOT) as loaded:
        assert "no such thing" in unavailable(loaded, "plain").reason
    mute = interpreter(tmp_path / "mute", "exec sleep 1000")
    with load([plain], pythons=[mute], directory=tmp_path, status=ROOT, timeout_s=1) as loaded:
        assert "took too long" in unavailable(loaded, "plain").reason
    (tmp_path / "breaks").mkdir()
    lib = "--- libbcc.py\n--- __init__.py\nimport os\nclass lib:\n"
    for name in ("bpf_num_tables", "bpf_table_name", "bpf_table_fd_id", "bcc_iter_attach"):
        lib += f"    class {name}: pass\n"
    breaks = python_with(
        tmp_path / "breaks",
        f"{lib}class BPF:\n    def __init__(self, text): os.abort()\n",
    )
    with load([plain], pythons=[breaks], directory=tmp_path, status=ROOT) as loaded:
        assert "exit status -6" in unavailable(loaded, "plain").reason


def test_one_that_fails_takes_no_other_down(possible: None, tmp_path: Path, write: Write) -> None:
    probes = [
        write("broken", "RAW_TRACEPOINT(count) { return nonsense; }"),
        write("unsafe", "RAW_TRACEPOINT(count) { return *(int *)(ctx->args[0]); }"),
        write("plain", PLAIN),
        write("nowhere", PLAIN, rung("only", Hook("raw_tracepoint", "inet_sock_set_mood", "count"))),
        write(
            "shifted",
            PLAIN,
            rung("only", Hook("raw_tracepoint", "inet_sock_set_state", "count", ("sk_buff",))),
        ),
        write("unattachable", PLAIN, rung("only", Hook("tracepoint", "syscalls:sys_exit_mood", "count"))),
        write("second", PLAIN, rung("first", HOOK, Field("sock", "sk_mood", 4)), rung("second")),
    ]
    with load(probes, directory=tmp_path, timeout_s=SLOW_S) as loaded:
        assert "probes/broken.bpf.c:1:32: error: use of undeclared identifier 'nonsense'" in (
            unavailable(loaded, "broken").reason
        )
        assert "invalid mem access" in unavailable(loaded, "unsafe").reason
        assert "no tracepoint inet_sock_set_mood" in unavailable(loaded, "nowhere").reason
        assert "arguments ('sock', 'int', 'int')" in unavailable(loaded, "shifted").reason
        assert "attaching tracepoint syscalls:sys_exit_mood" in unavailable(loaded, "unattachable").reason
        assert live(loaded, "plain").detached() == ()
        second = live(loaded, "second")
        assert second.rung == "second"
        assert [one.reason for one in second.refused] == ["this kernel has no field sk_mood in struct sock"]


def test_a_doctored_offset_table(possible: None) -> None:
    real = VMLINUX.read_bytes()
    doctored = Btf(real.replace(b"\0sk_ack_backlog\0", b"\0sk_ack_backl0g\0"))
    with load([accept_queue.probe(), accept_wait.probe()], btf=doctored, timeout_s=SLOW_S) as loaded:
        lacking = unavailable(loaded, "accept_queue")
        assert "no field sk_ack_backlog in struct sock" in lacking.reason
        assert len(lacking.refused) == 2
        assert live(loaded, "accept_wait").detached() == ()


def test_a_doctored_tracepoint(possible: None) -> None:
    doctored = Btf(
        VMLINUX.read_bytes().replace(b"\0btf_trace_sk_data_ready\0", b"\0btf_trace_sk_data_rusty\0")
    )
    with load([accept_queue.probe()], btf=doctored, timeout_s=SLOW_S) as loaded:
        one = live(loaded, "accept_queue")
        assert one.rung == "raw tracepoint inet_sock_set_state"
        assert [refusal.reason for refusal in one.refused] == ["this kernel has no tracepoint sk_data_ready"]


def test_nothing_is_left(
    possible: None, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write("plain", PLAIN)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(Path("/proc/self/fd").iterdir())
    mounts = Path("/proc/self/mountinfo").read_text()
    probes = [plain, accept_wait.probe()]
    shutil.copy(data_dir("probes") / "accept_wait.bpf.c", tmp_path)
    with load(probes, directory=tmp_path, timeout_s=SLOW_S) as loaded:
        ids = live(loaded, "plain").program_ids | live(loaded, "accept_wait").program_ids
        assert list(scratch.iterdir()) == []
        assert all(map(is_loaded, ids))
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    deadline = time.monotonic() + 60
    while any(map(is_loaded, ids)) and time.monotonic() < deadline:  # the kernel frees them a little later
        os.sched_yield()
    assert not any(map(is_loaded, ids))
    loaded.close()
