"""The classic table over several trials."""

import pytest
from msgspec.structs import replace

from connprobe.model import Reading, Stage, Trial
from connprobe.plan.limits.stages import stage_figures


def reading(stage: Stage, connections: int, rss: float) -> Reading:
    return Reading(
        stage=stage, at_s=0.0, connections=connections, settled=True, use={"rss_bytes": rss, "fds": 7.0}
    )


def trial(number: int, more: float = 0.0, *, upto: int = 5) -> Trial:
    readings = (
        reading("start", 0, 10e6),
        reading("ramp", 500, 12e6 + more),
        reading("ramp", 1000, 14e6 + more),
        reading("peak", 1000, 15e6 + more),
        reading("idle", 1000, 14e6 + more),
    )
    return Trial(
        number=number,
        readings=readings[:upto],
        growth=(),
        limits=(),
        held=1000,
        idle_cpu_share=0.02,
        message_cpu_s=0.5,
        messaging_s=2.0,
    )


def test_a_row_for_each_step_and_stage() -> None:
    rows = stage_figures([trial(1)])
    assert [(row.stage, row.connections.mean) for row in rows] == [
        ("start", 0),
        ("ramp", 500),
        ("ramp", 1000),
        ("peak", 1000),
        ("idle", 1000),
    ]
    idle = rows[-1]
    assert idle.use["rss_bytes"].mean == 14e6
    assert idle.use["rss_bytes"].low is None
    assert idle.bytes_per_connection["rss_bytes"].mean == pytest.approx(4000)
    assert "fds" not in idle.bytes_per_connection
    assert idle.cpu_share is not None
    assert idle.cpu_share.mean == 0.02
    assert rows[0].bytes_per_connection == {}


def test_trials_are_averaged_with_their_interval() -> None:
    idle = stage_figures([trial(1), trial(2, 1e6), trial(3, 2e6)])[-1]
    assert idle.use["rss_bytes"].mean == pytest.approx(15e6)
    assert idle.use["rss_bytes"].count == 3
    assert idle.use["rss_bytes"].high == pytest.approx(15e6 + 4.303 * 1e6 / 3**0.5, rel=1e-3)
    assert idle.bytes_per_connection["rss_bytes"].mean == pytest.approx(5000)


def test_a_trial_that_broke_early_is_missing_from_later_rows() -> None:
    rows = stage_figures([trial(1), trial(2, upto=2)])
    assert [row.connections.count for row in rows] == [2, 2, 1, 1, 1]


def test_trials_that_were_rounded_to_the_same_page_are_no_better_known() -> None:
    idle = stage_figures([trial(1), trial(2), trial(3)])[-1]
    rss, each, cpu = idle.use["rss_bytes"], idle.bytes_per_connection["rss_bytes"], idle.cpu_share
    assert (rss.low, rss.high) == (14e6 - 4096, 14e6 + 4096)
    assert each.low is not None
    assert each.mean - each.low == pytest.approx(4.096)
    assert cpu is not None
    assert cpu.low is not None
    assert cpu.mean - cpu.low == pytest.approx(0.01)
    assert idle.use["fds"].low == idle.use["fds"].high == 7  # counted, not rounded


def test_a_stage_of_a_few_ticks_has_no_cpu_share() -> None:
    last = reading("messaging", 1000, 14e6)
    one = replace(trial(1), readings=(*trial(1).readings, last))
    (share,) = [row.cpu_share for row in stage_figures([one]) if row.stage == "messaging"]
    assert share is not None
    assert share.mean == 0.25
    (share,) = [
        row.cpu_share for row in stage_figures([replace(one, messaging_s=0.15)]) if row.stage == "messaging"
    ]
    assert share is None
