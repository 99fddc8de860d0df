import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.report import format as fmt

FIGURES = [fmt.count, fmt.number, fmt.nbytes, fmt.ms, fmt.duration, fmt.rate, fmt.percent]
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (fmt.count(400_000), "400,000"),
        (fmt.number(0.05), "0.05"),
        (fmt.number(2.0), "2"),
        (fmt.nbytes(0), "0 B"),
        (fmt.nbytes(999), "999 B"),
        (fmt.nbytes(999.7), "1.0 kB"),
        (fmt.nbytes(12_600_000), "12.6 MB"),
        (fmt.nbytes(999_950), "1.0 MB"),
        (fmt.nbytes(-1200), "-1.2 kB"),
        (fmt.ms(0), "0 ms"),
        (fmt.ms(0.84), "0.84 ms"),
        (fmt.ms(12.13), "12.1 ms"),
        (fmt.ms(340.2), "340 ms"),
        (fmt.ms(12_300), "12.3 s"),
        (fmt.ms_between(0.31, 2.1), "0.31–2.10 ms"),
        (fmt.ms_between(8400.0, 12_300.0), "8,400 ms–12.3 s"),
        (fmt.ms_between(2.1, 2.1001), "2.10 ms"),
        (fmt.ms_between(None, 2.1), "2.10 ms"),
        (fmt.ms_between(None, None), fmt.DASH),
        (fmt.duration(0), "0 s"),
        (fmt.duration(0.25), "250 ms"),
        (fmt.duration(60), "60 s"),
        (fmt.duration(44.94), "44.9 s"),
        (fmt.duration(119.96), "2m 00s"),
        (fmt.duration(125), "2m 05s"),
        (fmt.duration(3599.7), "1h 00m"),
        (fmt.duration(93_600), "1d 02h"),
        (fmt.rate(8911.2), "8,911/s"),
        (fmt.rate(2.31), "2.3/s"),
        (fmt.percent(0.523), "52.3%"),
        (fmt.percent(399_999 / 400_000), "99.9%"),
        (fmt.percent(1 / 400_000), "0.1%"),
        (fmt.percent(1), "100.0%"),
    ],
)
def test_figures_read_as_expected(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("unknown", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_known_is_a_dash(figure: object, unknown: float | None) -> None:
    assert callable(figure)
    assert figure(unknown) == fmt.DASH


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_figure_crashes(value: float) -> None:
    for figure in FIGURES:
        assert figure(value)


@given(st.integers(min_value=0, max_value=10**17))
def test_a_size_stays_near_its_value_and_below_the_next_unit(value: int) -> None:
    shown, unit = fmt.nbytes(value).replace(",", "").split()
    assert float(shown) * UNITS[unit] == pytest.approx(value, rel=0.05, abs=0.5)
    assert float(shown) < 1000 or unit == "PB"


@given(st.floats(min_value=0, max_value=10**7))
def test_a_duration_stays_near_its_value(value: float) -> None:
    factors = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    shown = fmt.duration(value)
    parts = [shown.split()] if shown.endswith((" s", " ms")) else [(p[:-1], p[-1]) for p in shown.split()]
    total = sum(float(number) * factors[unit] for number, unit in parts)
    assert total == pytest.approx(value, rel=0.05, abs=0.0001)


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[31m[bold]red", "[bold]red"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\b", "ab"),
        ("\x9b2Jwiped", "wiped"),
        ("\x1bcreset", "reset"),
        ("two\r\nlines\tand\x85more", "two  lines and more"),
        ("bell\x07 null\x00 del\x7f", "bell null del"),
        ("txt.\u202eexe", "txt.exe"),
        ("\udcffsurrogate", "surrogate"),
        ("Käse 日本", "Käse 日本"),
    ],
)
def test_foreign_text_is_made_harmless(hostile: str, harmless: str) -> None:
    assert fmt.printable(hostile) == harmless


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_whatever_comes_can_be_printed(text: str, encoding: str) -> None:
    shown = fmt.printable(text, encoding=encoding)
    shown.encode(encoding)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in shown)


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_a_limit_is_kept(text: str, limit: int) -> None:
    assert len(fmt.printable(text, limit=limit)) <= limit


def test_marks_have_a_likeness_in_ascii() -> None:
    assert fmt.printable(f"1 … 2 {fmt.DASH}", encoding="ascii") == "1 ... 2 -"
