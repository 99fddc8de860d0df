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
from connprobe.kernel.loader import Unavailable, load
from connprobe.kernel.probe import Hook
from connprobe.kernel.programs import decode, encode
from connprobe.store.kept import Kept
from kernel.conftest import live
from kernel.sockets import SLOW_S, Sockets
from kernel.written import HOOK, PLAIN, Write, rung, unavailable

SOURCES = Path(__file__).parents[2] / "cli"
ROOT = "CapEff:\t000001ffffffffff\n"


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


def is_loaded(program: int) -> bool:
    try:
        os.close(bpf.program_by_id(program))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.parametrize(
    ("mask", "lacks"),
    [
        ("0000000000000000", "neither is held"),
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
    with load([accept_wait.probe()], timeout_s=SLOW_S) as loaded:
        ours = live(loaded, "accept_wait").rung
    rung_name = ours if ours.startswith("fexit ") else "raw tracepoint sys_exit"
    assert ran.stdout.splitlines()[1:] == [f"accept_wait {rung_name} 0"], ran.stderr
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
    lib = "--- libbcc.py\n--- __init__.py\nimport os\n__version__ = '0'\nclass lib:\n"
    table = ("name", "max_entries_id", "fd_id", "type_id", "flags_id", "key_size_id", "leaf_size_id")
    for name in ("bpf_num_tables", *(f"bpf_table_{each}" for each in table)):
        lib += f"    class {name}: pass\n"
    breaks = python_with(
        tmp_path / "breaks",
        f"{lib}class BPF:\n    def __init__(self, text, cflags):\n        if 'nonsense' in text: os.abort()\n"
        "        raise Exception('what it says')\n",
    )
    nonsense = write("nonsense", "RAW_TRACEPOINT(count) { return nonsense; }")
    others = [write(f"plain{i}", PLAIN) for i in range(max(2, len(os.sched_getaffinity(0))))]
    with load([nonsense, *others], pythons=[breaks], directory=tmp_path, status=ROOT) as loaded:
        assert "exit status -6" in unavailable(loaded, "nonsense").reason
        for other in others:
            assert "what it says" in unavailable(loaded, other.name).reason


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


def test_a_typed_hook_reads_within_its_type_alone(possible: None, tmp_path: Path, write: Write) -> None:
    hook = Hook("raw_tracepoint", "inet_sock_set_state", "count", ("sock",), typed=True)
    load_at = "RAW_TRACEPOINT(count) {{ return LOAD(u8, ctx->args[0], {}); }}"
    probes = [
        write(
            "within",
            load_at.format("SOCK_SKC_STATE"),
            rung("only", hook, Field("sock", "__sk_common.skc_state", 1)),
        ),
        write("beyond", load_at.format("8192"), rung("only", hook)),
        write("untyped", load_at.format("0"), rung("only")),
    ]
    with load(probes, directory=tmp_path, timeout_s=SLOW_S) as loaded:
        assert live(loaded, "within").detached() == ()
        assert "beyond struct sock" in unavailable(loaded, "beyond").reason
        assert "invalid mem access" in unavailable(loaded, "untyped").reason


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


NO_COMPILER = ("/nonexistent/python",)


@pytest.fixture
def kept(possible: None, tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept")


def test_kept_programs_need_no_compiler_and_count_the_same(
    kept: Kept, tmp_path: Path, sockets: Sockets
) -> None:
    """accept_queue has a map of each kind but one, a raw tracepoint, an iterator, and one that is called."""
    probes = [accept_queue.probe(), accept_wait.probe()]
    readings = []
    for pythons, says in (
        (None, "compiled now by bcc "),
        (NO_COMPILER, "kept from an earlier run, compiled by bcc "),
    ):
        with load(probes, pythons=pythons, keep=kept, timeout_s=SLOW_S) as loaded:
            one = live(loaded, "accept_queue")
            queues = accept_queue.AcceptQueues(one)
            listener = sockets.listen(3)
            sockets.connect(listener, 3)
            sockets.accept(listener)
            (queue,) = (
                each
                for each in queues.read().listeners
                if each.inodes == (os.fstat(listener.fileno()).st_ino,)
            )
            shapes = {
                name: (each.key_size, each.value_size, each.max_entries, each.per_cpu)
                for name, each in one.maps.items()
            }
            readings.append(
                (one.rung, shapes, sorted(one.hooks), queue.enqueued, queue.accepted, queue.depth)
            )
            assert one.programs.startswith(says)
            assert live(loaded, "accept_wait").programs.startswith(says)
            assert live(loaded, "accept_wait").detached() == ()
    assert readings[0] == readings[1]
    assert readings[0][3:] == (3, 1, 2)


def test_kept_programs_are_those_of_their_source(kept: Kept, tmp_path: Path, write: Write) -> None:
    plain = write("plain", PLAIN)
    with load([plain], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        live(loaded, "plain")
    with load([plain], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
        live(loaded, "plain")
    for changed in (
        write("plain", PLAIN, rung("only", HOOK, SOME=1)),
        write("plain", PLAIN, rung("only", Hook("raw_tracepoint", "tcp_destroy_sock", "count"))),
        write("plain", PLAIN.replace("0;", "1;")),
    ):
        with load([changed], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
            assert "no Python with bcc" in unavailable(loaded, "plain").reason


def damage(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "spoil", [damage, lambda data: data[:-3], lambda data: b""], ids=["one bit", "short", "empty"]
)
def test_spoilt_programs_are_refused_and_compiled_anew(
    spoil: Callable[[bytes], bytes], kept: Kept, tmp_path: Path, write: Write
) -> None:
    plain = write("plain", PLAIN)
    with load([plain], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        live(loaded, "plain")
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    with load([plain], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
        unavailable(loaded, "plain")
    with load([plain], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        said = live(loaded, "plain").programs
    assert said.startswith("kept ones not used: it is damaged: its digest differs; compiled now by ")
    with load([plain], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
        assert live(loaded, "plain").programs.startswith("kept from ")


def test_programs_under_the_name_of_others_are_refused(kept: Kept, tmp_path: Path, write: Write) -> None:
    one, other = write("one", PLAIN), write("other", PLAIN.replace("0;", "1;"))
    with load([one, other], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        live(loaded, "other")
    first, second = (tmp_path / "kept").iterdir()
    first.write_bytes(second.read_bytes())
    with load([one, other], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
        assert sorted(type(each) is Unavailable for each in loaded.probes.values()) == [False, True]


def test_a_directory_that_others_may_write(kept: Kept, tmp_path: Path, write: Write) -> None:
    plain = write("plain", PLAIN)
    with load([plain], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        live(loaded, "plain")
    (tmp_path / "kept").chmod(0o777)
    with load([plain], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
        unavailable(loaded, "plain")
    with load([plain], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        said = live(loaded, "plain").programs
    assert said.count("not a directory of ours alone") == 2  # neither read nor written
    assert "not kept: " in said


def test_the_verifier_sees_kept_programs_too(kept: Kept, tmp_path: Path, write: Write) -> None:
    """What has a valid digest, but is no program that the kernel takes, does no harm."""
    plain = write("plain", PLAIN)
    with load([plain], directory=tmp_path, keep=kept, timeout_s=SLOW_S) as loaded:
        live(loaded, "plain")
    (file,) = (tmp_path / "kept").iterdir()
    programs = decode(file.read_bytes(), file.name)
    endless = bytes.fromhex("0500ffff00000000")  # a jump to itself
    file.write_bytes(encode(programs._replace(code={"count": endless}), file.name))
    with load([plain], directory=tmp_path, keep=kept, pythons=NO_COMPILER) as loaded:
        assert unavailable(loaded, "plain").reason.startswith("only: loading count: ")
