from typing import Any

from msgspec.structs import replace

from connprobe.model import Verdict
from connprobe.model.comparison import Comparison
from connprobe.plan.compare import compare
from connprobe.plan.settings import flatten
from report.conftest import PLAN, a_record
from report.limited import limited


def compared(*records: Any) -> Comparison:
    return compare(records, [str(index) for index in range(len(records))], [""] * len(records))


def figures(comparison: Comparison) -> dict[str, tuple[Any, Any]]:
    return {f"{it.group} {it.name}": (it.values, it.ratios) for it in comparison.figures}


def test_ratios_are_to_the_first_and_unknown_where_a_figure_is() -> None:
    first = a_record()
    found = figures(compared(first, replace(first, held=100_000, handshake_ms=None), a_record(held=0)))
    assert found["connections held"] == ((400_000, 100_000, 0), (1, 0.25, 0))
    assert found["connections failed"] == ((0, 0, 0), (None, None, None))
    assert found["handshake p99"] == ((12.1, None, 12.1), (1, None, 1))
    assert "kernel memory a connection" not in found  # no run has it


def test_limits_by_resource() -> None:
    one = limited(a_record())
    two = limited(a_record(), limits=one.limits[1:3], verified=None)
    found = figures(compared(one, two))
    assert found["limits the first"][0] == (16_951, 19_970)
    assert found["limits heap"] == ((16_951, None), (1, None))
    assert found["limits broke at (verified)"][0] == (16_851, None)


def test_what_was_set_otherwise_and_nothing_else() -> None:
    one = a_record()
    host = replace(one.host, kernel="6.1")
    request = replace(one.request, rate_per_s=500.0)
    two = replace(one, host=host, request=request, verdicts=(Verdict(level="good", text="x"),))
    assert [(it.part, it.name, it.values) for it in compared(one, two).differences] == [
        ("machine", "kernel", ("6.18", "6.1")),
        ("asked for", "rate_per_s", ("not set", "500")),
    ]
    assert compared(one, one).differences == ()


def test_runs_of_different_commands_are_said_to_be() -> None:
    notes = compared(a_record(), limited(a_record()), a_record(outcome="interrupted")).notes
    assert any("hold and limit" in note for note in notes)
    assert "c did not end as asked: interrupted." in notes
    assert compared(a_record(), a_record()).notes == ()


def test_settings_as_lines() -> None:
    lines = flatten(PLAN, without=frozenset({"shards"}))
    assert lines["target.host"] == "127.0.0.1"
    assert (lines["count"], lines["alias_addresses"]) == ("400,000", "none")
    assert lines["alias_interface"] == "not set"
    assert not any(name.startswith("shards") for name in lines)
    assert flatten(None) == {}
