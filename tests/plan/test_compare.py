from typing import Any

from msgspec.structs import replace

from connprobe.model import Verdict
from connprobe.model.comparison import Comparison
from connprobe.plan.compare import compare
from connprobe.plan.settings import flatten
from report.conftest import PLAN, a_record
from report.limited import limited, trial, verified


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
    two = limited(a_record(), limits=one.limits[1:4], verified=None, trials=(), stages=())
    found = figures(compared(one, two))
    assert found["limits the first"][0] == (16_951, 19_970)
    assert found["limits heap"] == ((16_951, None), (1, None))
    assert found["limits of traffic accept queue"][0] == (409_600, 409_600)


def test_the_first_limit_is_none_of_traffic() -> None:
    one = limited(a_record())
    queue = replace(one.limits[3], connections=7)
    found = figures(compared(one, replace(one, limits=(queue, *one.limits))))
    assert found["limits the first"][0] == (16_951, 16_951)
    assert found["limits of traffic accept queue"][0] == (409_600, 7)


def test_what_was_verified_is_compared_over_the_trials() -> None:
    one = limited(a_record())
    client = replace(trial(3), verified=replace(verified(3), side="client", inside=None, error=None))
    two = limited(a_record(), trials=(trial(7), client))
    found = figures(compared(one, two, a_record()))
    assert found["verified predicted"][0] == (16_951, 16_951, None)
    assert found["verified broke at"][0] == (16_852.5, 16_858, None)  # the client's end is none
    errors, ratios = found["verified error"]
    assert errors[1] == 93 / 16_858
    assert ratios == (None, None, None)
    assert found["verified inside"][0] == (2, 1, None)


def test_costs_stages_and_messages_are_compared() -> None:
    one = limited(a_record())
    found = figures(compared(one, limited(a_record(), trials=(trial(2),)), a_record()))
    assert found["one more connection RSS"][0] == (10_019.5, 10_026.0, None)
    assert found["one more connection fds"][0] == (1, 1, None)
    assert found["stages idle, RSS"][0] == (82e6, 82e6, None)
    spent = found["messages CPU a message"][0]
    assert abs(spent[0] - 0.08125) < 1e-9
    assert abs(spent[1] - 0.0825) < 1e-9
    assert found["messages round trip p99"][0] == (7.9, 7.9, None)
    assert not any(
        name.startswith(("limits", "verified", "stages")) for name in figures(compared(a_record()))
    )


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
