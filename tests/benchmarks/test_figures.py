"""The arithmetic behind the benchmark table: what counts as met, and what is refused."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """benchmarks/ is no package of the wheel, and shares its name with this directory: loaded by its path."""
    path = Path(__file__).resolve().parents[2] / "benchmarks/figures.py"
    spec = importlib.util.spec_from_file_location("benchmark_figures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def record(**changes: object) -> str:
    client = {"workers": 2, "pss_bytes": 50_000, "workers_pss_bytes_per_connection": 20.0}
    run = {"requested": 997, "held": 997, "failed": 0, "dropped": 0, "failures": {}, "drops": {}}
    return json.dumps({**run, "ramp_s": 0.5, "client": client, **changes})


def test_both_clients_are_read_into_the_same_record(figures: ModuleType) -> None:
    line = '{"count": 997, "ramp_s": 0.250000, "per_s": 3988.0, "workers": 3, "pss_bytes": 4096}'
    assert figures.from_floor(line) == figures.Ramp(997, 0.25, 3, 4096, 4096)
    run = figures.from_run(record())
    assert run == figures.Ramp(997, 0.5, 2, 19_940, 50_000)
    assert run.per_s == 1994


@pytest.mark.parametrize("changes", [{"held": 996}, {"failed": 1}, {"dropped": 1}])
def test_a_run_that_lost_one_gives_no_rate(figures: ModuleType, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="of 997 held"):
        figures.from_run(record(**changes))


def test_ratios_are_of_pairs(figures: ModuleType) -> None:
    assert figures.ratios([1, 6], [2, 3]) == (0.5, 2)
    with pytest.raises(ValueError, match="shorter"):
        figures.ratios([1, 2], [1])


def test_the_slope_needs_the_same_workers(figures: ModuleType) -> None:
    small, large = figures.Ramp(100, 1, 8, 5_000, 0), figures.Ramp(300, 1, 8, 8_000, 0)
    assert figures.marginal_bytes(small, large) == 15
    with pytest.raises(ValueError, match="not comparable"):
        figures.marginal_bytes(small, figures.Ramp(300, 1, 9, 8_000, 0))


def test_sockets_count_time_wait_but_not_allocations(figures: ModuleType) -> None:
    text = "sockets: used 170\nTCP: inuse 5 orphan 7 tw 11 alloc 100 mem 3\nUDP: inuse 1 mem 0\n"
    assert figures.sockets_in_use(text) == 23


def test_memory_taken_is_from_the_first_sample_to_the_lowest(figures: ModuleType) -> None:
    assert figures.memory_taken_bytes(f'{{"memory_available_bytes": {n}}}' for n in (90, 97, 13, 40)) == 77


def test_what_changed_includes_what_came_and_went(figures: ModuleType) -> None:
    assert figures.changed({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == ["b", "c", "d"]


def test_the_median_decides_and_the_bound_itself_is_met(figures: ModuleType) -> None:
    assert figures.Row("x", (0.1, 0.95, 2), least=0.95).met is True
    assert figures.Row("x", (0.1, 0.94, 2), least=0.95).met is False
    assert figures.Row("x", (21,), most=20).met is False
    assert figures.Row("x", (21,)).met is None


def test_ramps_are_compared_within_their_round_and_judged_by_their_goals(figures: ModuleType) -> None:
    def turns(count: int, *seconds: float, bytes_each: int = 0) -> list[list[object]]:
        return [[figures.Ramp(count, s, 2, bytes_each * count, 2 * bytes_each * count)] for s in seconds]

    # The machine is twice as slow in the second round: no ratio may show it.
    seen = {
        ("floor", 19_000): turns(19_000, 1, 2),
        ("client", 19_000): turns(19_000, 1, 2),
        ("hold", 19_000): turns(19_000, 1.25, 2.5),
        ("serve", 19_000): turns(19_000, 1, 2),
        ("floor", 400_000): turns(400_000, 20, 40),
        ("client", 400_000): turns(400_000, 25, 50, bytes_each=1),
        ("hold", 400_000): turns(400_000, 20, 40, bytes_each=91),
        ("serve", 400_000): turns(400_000, 25, 50),
    }
    spread = {"client": turns(19_000, 1.25, 2.5), "floor": turns(19_000, 2, 4)}
    rows = {row.what: row for row in figures.ramp_rows(seen, [19_000, 400_000], spread)}
    beside = "19,000, with the server processes of 400,000: connprobe hold --no-bpf, C server"
    assert (rows[beside].values, rows[beside].note) == ((15_200, 7_600), "client workers: 2")
    grew = "cost of a connection at 400,000 over 19,000, with the server processes of 400,000, C client"
    assert rows[grew].values == pytest.approx((0.95 / 2, 0.95 / 2))
    judged = {what: (row.values, row.met) for what, row in rows.items() if row.met is not None}
    assert judged == {
        "19,000: rate, connprobe hold --no-bpf over C client": ((1, 1), True),
        "19,000: rate, connprobe hold over C client": ((0.8, 0.8), False),
        "19,000: rate, connprobe serve over C server": ((1, 1), True),
        "400,000: rate, connprobe hold --no-bpf over C client": ((0.8, 0.8), False),
        "400,000: rate, connprobe hold over C client": ((1, 1), True),
        "400,000: rate, connprobe serve over C server": ((0.8, 0.8), False),
        "400,000: PSS per connection, workers": ((91, 91), False),
        "400,000: PSS per connection, whole command": ((182, 182), True),
        "cost of a connection at 400,000 over 19,000, connprobe hold --no-bpf": (
            pytest.approx((25 * 0.0475, 25 * 0.0475)),
            False,
        ),
        "cost of a connection at 400,000 over 19,000, with the server processes of 400,000, "
        "connprobe hold --no-bpf": (pytest.approx((0.95, 0.95)), True),
        "cost of a connection at 400,000 over 19,000, connprobe hold": (pytest.approx((0.76, 0.76)), True),
    }
    assert rows["cost of a connection at 400,000 over 19,000, connprobe hold"].most == 1.15


def test_a_small_trial_has_no_goals(figures: ModuleType) -> None:
    ramp = figures.Ramp(997, 1, 2, 10**9, 10**9)
    rows = figures.ramp_rows({(pair, 997): [[ramp]] for pair in figures.PAIRS}, [997], {})
    assert {row.met for row in rows} == {None}


def test_the_table_shows_spread_and_what_was_missed(figures: ModuleType) -> None:
    text = figures.table([figures.Row("bytes", (30, 10, 20), "B", 1, most=15, note="8 workers")])
    assert text.splitlines()[-1] == "| bytes (8 workers) | 20.0 B | 10.0 to 30.0 | 3 | <= 15 | **no** |"


def test_only_what_is_between_the_markers_is_replaced(figures: ModuleType) -> None:
    text = "before\n<!-- limits: begin -->\nold\n<!-- limits: end -->\nafter\n"
    changed = text.replace("old", "\nnew\n")
    assert figures.replace_block(text, "new", "limits") == changed
    with pytest.raises(ValueError, match="expected"):
        figures.replace_block("no markers", "new")
