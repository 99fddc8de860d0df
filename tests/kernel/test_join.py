"""Several probes at one hook: one program, whose parts know nothing of each other."""

import os
import sys
from pathlib import Path

import pytest

from connprobe.kernel.btf import Field
from connprobe.kernel.live import Live
from connprobe.kernel.loader import load
from connprobe.kernel.probe import Hook, Rung
from kernel.conftest import live
from kernel.sockets import SLOW_S, Sockets
from kernel.written import PLAIN, Write, rung, unavailable

COUNTS = """BPF_ARRAY(seen, u64, 1);
RAW_TRACEPOINT(count) {{
  int zero = 0;
  u64 *all = seen.lookup(&zero);
  {also}
  if (ctx->args[2] == {state} && all && LOAD(u8, ctx->args[0], SOCK_SKC_STATE)) ADD(*all, 1);
  return 0;
}}"""
TYPED = Hook("raw_tracepoint", "inet_sock_set_state", "count", ("sock", "int", "int"), typed=True)
STATE = Field("sock", "__sk_common.skc_state", 1)


def seen(probe: Live) -> int:
    ((_, (value,)),) = probe.maps["seen"].items()
    return int.from_bytes(value, sys.byteorder)


MAPS = "".join(f"BPF_ARRAY(map{i}, u64, 1);" for i in range(40))
LOOKUPS = "".join(f"map{i}.lookup(&zero);" for i in range(40))


@pytest.mark.parametrize("large", [False, True])
def test_probes_at_one_hook_are_one_program(
    large: bool, possible: None, tmp_path: Path, write: Write, sockets: Sockets
) -> None:
    """Unless the kernel refuses it: here as it uses more than 64 maps (MAX_USED_MAPS)."""
    maps, lookups = (MAPS, LOOKUPS) if large else ("", "")
    at = rung("only", TYPED, STATE)
    probes = [
        write("listens", maps + COUNTS.format(state="TCP_LISTEN", also=lookups), at),
        write("closes", maps + COUNTS.format(state="TCP_CLOSE", also=lookups), at),
        write("untyped", PLAIN),
    ]
    with load(probes, directory=tmp_path, timeout_s=SLOW_S) as loaded:
        listens, closes, untyped = (live(loaded, name) for name in ("listens", "closes", "untyped"))
        assert (listens.program_ids == closes.program_ids) is not large
        assert listens.program_ids.isdisjoint(untyped.program_ids)
        assert all(each.detached() == () for each in (listens, closes, untyped))
        before = seen(listens), seen(closes)
        for _ in range(23):
            sockets.listen(1)
        assert seen(listens) - before[0] >= 23
        sockets.close()
        assert seen(closes) - before[1] >= 23
        (label,) = listens.hooks
        os.close(listens.hooks[label])
        assert listens.detached() == (label,)
        assert closes.detached() == ()  # and goes on
        before = seen(listens), seen(closes)
        sockets.listen(1).close()
        assert seen(closes) > before[1]


def test_one_that_fails_is_not_joined(possible: None, tmp_path: Path, write: Write) -> None:
    at = rung("only", TYPED, STATE)
    probes = [
        write("listens", COUNTS.format(state="TCP_LISTEN", also=""), at),
        write("closes", COUNTS.format(state="TCP_CLOSE", also=""), at),
        write("unsafe", "RAW_TRACEPOINT(count) { return *(int *)(ctx->args[1]); }", at),
        write(
            "unattachable",
            PLAIN + "RAW_TRACEPOINT(mood) { return 0; }",
            Rung("only", (TYPED, Hook("tracepoint", "syscalls:sys_exit_mood", "mood")), ()),
        ),
    ]
    with load(probes, directory=tmp_path, timeout_s=SLOW_S) as loaded:
        assert live(loaded, "listens").program_ids == live(loaded, "closes").program_ids
        assert "invalid mem access" in unavailable(loaded, "unsafe").reason
        assert "attaching tracepoint" in unavailable(loaded, "unattachable").reason
