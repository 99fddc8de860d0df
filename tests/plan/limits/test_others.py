"""Connections of others to a server that ran already."""

from connprobe.model import Reading, Trial
from connprobe.plan.limits.others import others
from connprobe.plan.limits.prediction import growths, moved


def trial(*counts: int | None, opened: int | None = None) -> Trial:
    readings = tuple(
        Reading(
            stage="ramp" if number else "start",
            at_s=float(number),
            connections=100 * number,
            settled=True,
            use={"process_fds": 10.0 + 100 * number + (count or 0)},
            others=count,
        )
        for number, count in enumerate(counts)
    )
    return Trial(
        number=1,
        readings=readings,
        growth=tuple(growths(readings).values()),
        limits=(),
        held=300,
        others_opened=opened,
    )


def test_nobody_else_is_nothing_to_tell() -> None:
    assert others(trial(0, 0, 0)) is None
    assert others(trial(None, None, opened=None)) is None
    assert others(trial(0, 0, opened=1)) is None


def test_those_that_stay_are_a_note() -> None:
    said = others(trial(1234, 1234, 1234))
    assert said is not None
    assert (said.level, said.fix) == ("note", None)
    assert "1,234 connections of others" in said.text


def test_those_that_move_are_a_warning_with_their_number() -> None:
    said = others(trial(5, 9, 7, opened=40))
    assert said is not None
    assert said.level == "warning"
    assert "5 to 9 of theirs while ours came; 40 of theirs came meanwhile" in said.text


def test_what_was_before_ours_came_moves_no_line() -> None:
    assert moved(trial(50, 9, 7, 8).readings) == 2
    assert moved(trial(50, 9, 7).readings) == 43  # the start is fitted too, where the ramp is short


def test_those_that_no_reading_saw_are_told_by_the_kernel() -> None:
    said = others(trial(0, 0, 0, opened=40))
    assert said is not None
    assert "40 connections of theirs came, and went" in said.text
