"""A real JVM, by jcmd; and the collectors that keep some of their heap back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from connprobe.observe.runtimes import HeapUnknown, Preparation, Runtime, attach
from connprobe.observe.runtimes.jvm import INSTALL, Limits, read_limits, read_live_bytes
from started import Started

MiB = 1 << 20
KEEP = """
import java.io.*;
import java.util.*;
public class Keep {
  public static void main(String[] arguments) throws Exception {
    List<byte[][]> kept = new ArrayList<>();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
    System.out.println(Runtime.getRuntime().maxMemory());
    for (String line; (line = in.readLine()) != null;) {
      byte[][] more = new byte[Integer.parseInt(line)][];
      for (int i = 0; i < more.length; i++) more[i] = new byte[1000 - 16];
      kept.add(more);
      System.out.println(more.length);
    }
  }
}
"""
BYTES = 1000 + 4  # of one array, header and all, and of the reference to it


@pytest.fixture
def java(run: Callable[..., Started], tmp_path: Path) -> Callable[..., Started]:
    """java(*options) -> Started."""
    if shutil.which("javac") is None:
        pytest.skip(f"no JDK here: {INSTALL}")
    source = tmp_path / "Keep.java"
    source.write_text(KEEP)
    return lambda *options: run("java", *options, source)


def attached(server: Started, prepared: Preparation) -> Runtime:
    runtime, reason = attach([server.pid], prepared, inspect=False)
    assert runtime is not None, reason
    return runtime


@pytest.mark.parametrize(("collector", "name"), [("UseG1GC", "G1"), ("UseSerialGC", "Serial")])
def test_the_live_heap_grows_by_what_is_kept(
    java: Callable[..., Started], prepared: Preparation, collector: str, name: str
) -> None:
    server = java("-Xmx64m", f"-XX:+{collector}")
    runtime = attached(server, prepared)
    assert runtime.name.startswith("JVM ")
    assert runtime.name.endswith(f"({name})")
    runtime.heap()  # the launcher's compiler goes
    first = runtime.heap()
    server.ask("20011")
    second = runtime.heap()
    assert second.live_bytes - first.live_bytes == pytest.approx(20011 * BYTES, rel=0.02)
    (ceiling,) = runtime.ceilings()
    assert second.capacity_bytes == ceiling.capacity == pytest.approx(server.said, rel=0.002)
    assert (ceiling.resource, ceiling.metric, ceiling.unit) == ("heap", "heap_bytes", "bytes")
    assert "jcmd" in ceiling.source
    assert ceiling.fix.startswith("java -Xmx1")
    assert ceiling.scope == f"server (pid {server.pid})"
    runtime.close()


def test_one_that_ended(java: Callable[..., Started], prepared: Preparation) -> None:
    server = java("-Xmx64m")
    runtime = attached(server, prepared)
    server.end()
    with pytest.raises(HeapUnknown, match="ended"):
        runtime.heap()


def test_one_that_would_die_of_the_question_is_not_asked(
    java: Callable[..., Started], prepared: Preparation
) -> None:
    server = java("-Xmx64m", "-Xrs")
    runtime, reason = attach([server.pid], prepared, inspect=False)
    assert runtime is None
    assert reason is not None
    assert "-Xrs" in reason
    assert server.ask("1") == 1


def test_without_leave_it_is_not_collected(java: Callable[..., Started]) -> None:
    runtime, reason = attach([java("-Xmx64m").pid], None, inspect=False)
    assert runtime is None
    assert reason is not None
    assert "--inspect" in reason


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        ("1:\n-XX:MaxHeapSize=1000 -XX:MaxNewSize=600 -XX:+UseG1GC\n", Limits(1000, None, "G1")),
        ("-XX:MaxHeapSize=1000 -XX:MaxNewSize=300 -XX:+UseSerialGC", Limits(970, None, "Serial")),
        ("-XX:MaxHeapSize=1000 -XX:MaxNewSize=300 -XX:+UseParallelGC", Limits(970, 700, "Parallel")),
        (
            "-XX:MaxHeapSize=1000 -XX:MaxNewSize=300 -XX:SurvivorRatio=1 -XX:+UseParallelGC",
            Limits(900, 700, "Parallel"),
        ),
        ("-XX:MaxHeapSize=1000", Limits(1000, None, None)),
    ],
)
def test_the_limits(flags: str, limits: Limits) -> None:
    assert read_limits(flags) == limits


@pytest.mark.parametrize("text", ["", "-XX:MaxHeapSize=0", "-XX:MaxHeapSize=-5", "-XX:MaxHeapSize=1e9", "\0"])
def test_no_limits(text: str) -> None:
    with pytest.raises(HeapUnknown, match="no HotSpot"):
        read_limits(text)
    with pytest.raises(HeapUnknown, match="no HotSpot"):
        read_live_bytes(text)
