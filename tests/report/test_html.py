"""What the pieces of report.html promise; how it looks in a browser: tests/e2e/test_report.py."""

import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from msgspec.structs import replace

import connprobe.report.html
from connprobe.model import Sample
from connprobe.model.kernel import KernelSample, QueueSample
from connprobe.plan.compare import compare
from connprobe.report.compared import markdown
from connprobe.report.html import render_html
from connprobe.report.html.comparison import render_comparison_html
from connprobe.report.html.figures import label
from connprobe.report.html.markup import embedded_json, tag, text
from connprobe.report.timeline import read_timeline
from report.conftest import a_record, a_sample, a_server
from report.limited import HEAP_EACH, LIMITS, limit_samples, limited, trial

CSS = (Path(connprobe.report.html.__file__).parent / "page.css").read_text()
COLOURS = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", CSS))
EVIL = "</script><script>alert(1)</script>\u202e<!--\x1b[31m"


def samples(count: int = 40) -> list[Sample]:
    made = []
    for second in range(count):
        queue = QueueSample(
            address="10.0.0.1:80", sockets=1, depth=0, depth_max=second, capacity_each=65, overflows=0
        )
        made.append(
            a_sample(
                float(second),
                phase="ramp" if second < count // 2 else "hold",
                held=second * 100,
                server=a_server(rss_bytes=5_000_000 + 4733 * second * 100, cpu_s=second * 0.5),
                kernel=KernelSample(queues=(queue,), slab_bytes=10**8 + second, softirq=0.1),
            )
        )
    return made


def figures(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    loaded = json.loads(found[1])
    assert isinstance(loaded, dict)
    return loaded


def coloured(value: Any) -> Any:
    """As page.js does it."""
    if isinstance(value, list):
        return [coloured(each) for each in value]
    if isinstance(value, dict):
        return {key: coloured(each) for key, each in value.items()}
    if isinstance(value, str) and value.startswith("@"):
        name = value[1:].removesuffix("-band")
        return COLOURS[name] + ("33" if value.endswith("-band") else "")
    return value


def test_every_figure_is_one_that_plotly_knows() -> None:
    record = limited(a_record())
    both = compare([record, record], ["x", "y"], ["", ""])
    lines = [read_timeline(samples())] * 2
    pages = (
        render_html(record, samples()),
        render_html(a_record(), samples()),
        render_comparison_html(both, lines),
    )
    drawn = [figures(page) for page in pages]
    assert [len(each) for each in drawn] == [7, 6, 6]
    for each in drawn:
        for figure in each.values():
            go.Figure(coloured(figure))  # raises for a property that is none


def test_the_charts_hold_the_figures() -> None:
    drawn = figures(render_html(limited(a_record()), samples()))
    bars = drawn["limits"]["data"][0]
    far = LIMITS[-1]  # too far for the axis
    held = [it for it in LIMITS if it.resource != "accept_queue" and it is not far]
    assert bars["x"] == [it.connections for it in held]
    assert bars["y"][:3] == ["V8 heap", "file descriptors", "client's source ports"]
    assert (bars["error_x"]["array"][0], bars["error_x"]["arrayminus"][0]) == (549, 651)
    assert max(drawn["queue"]["data"][0]["y"]) == 39
    assert drawn["queue"]["data"][1]["y"] == [65, 65]
    assert drawn["cpu"]["data"][0]["y"][5] == 0.5
    held = figures(render_html(a_record(), samples()))["growth"]["data"]
    assert "4.7 kB a connection" in held[1]["name"]


def test_an_interval_without_an_end_does_not_press_the_bars_flat() -> None:
    wide = (LIMITS[0], replace(LIMITS[1], high=1 << 53))
    drawn = figures(render_html(limited(a_record(), limits=wide), []))["limits"]
    assert drawn["layout"]["xaxis"]["range"][1] < 6.5  # 19,970 is 4.3
    assert drawn["data"][1]["x"][1] == 199_700


def test_the_same_input_gives_the_same_text() -> None:
    assert render_html(a_record(), samples()) == render_html(a_record(), iter(samples()))


@pytest.mark.parametrize("given", [[], [None], samples(1)])
def test_a_run_without_samples_has_its_tables(given: list[Sample | None]) -> None:
    page = render_html(a_record(), given)
    assert "too few for a chart" in page
    assert ("could not be read" in page) == (given == [None])
    assert len(page) < 100_000  # and no program to draw with


def test_trials_that_begin_their_clock_again_follow_each_other() -> None:
    line = read_timeline(samples(10) + samples(10))
    assert line.end_s == 18
    assert [span.phase for span in line.phases] == ["ramp", "hold"] * 2
    x, _ = line.thinned.points("held")
    assert x == sorted(x)


def test_phases_beyond_those_that_are_marked_are_not_the_last_one_still() -> None:
    line = read_timeline(limit_samples(20))
    assert len(line.phases) == 100
    longest = max(span.end_s - span.begin_s for span in read_timeline(limit_samples(2)).phases)
    assert line.phases[-1].end_s - line.phases[-1].begin_s <= longest


def test_trials_and_their_phases_are_marked() -> None:
    line = read_timeline(limit_samples(2))
    phases = ["start", "ramp", "peak", "idle", "messaging", "drain", "verify"]
    assert [span.phase for span in line.phases] == phases * 2  # settling belongs to what it ends
    assert len(line.trials) == 1
    layout = figures(render_html(limited(a_record()), limit_samples(2)))["memory"]["layout"]
    assert {"ramp", "verify", "trial 2"} <= {it["text"] for it in layout["annotations"]}
    assert [it["x0"] for it in layout["shapes"] if it["type"] == "line"] == line.trials


def test_the_line_goes_on_dashed_to_where_more_were_held() -> None:
    one = trial(1)
    far = replace(one.readings[-2], stage="verify", connections=16_000, settled=False)
    verified = replace(one, readings=(*one.readings, far))
    drawn = figures(render_html(limited(a_record(), trials=(verified,)), []))["growth"]["data"]
    dashed = [it for it in drawn if it["line"].get("dash") == "dash"]
    assert {it["x"][0] for it in dashed} == {4000}
    assert {it["x"][-1] for it in dashed} == {16_000}
    heap = next(it for it in dashed if it["name"].startswith("heap"))
    assert heap["y"][-1] == 3.66e6 + (HEAP_EACH + 0.1 * 13) * 16_000
    without = figures(render_html(limited(a_record(), trials=(one,)), []))["growth"]["data"]
    assert not any(it["line"].get("dash") for it in without)


def test_the_tables_of_a_limit_hold_its_figures() -> None:
    page = render_html(limited(a_record()), limit_samples(1))
    for said in (
        *("82.00 ± 0.82 MB", "10,000 ± 130 B", "4,735 ± 31 B", "16,852", "+0.6%", "24.9 ms"),
        *("1. the V8 heap (binds first)", "Limits of traffic", "does not grow measurably", "5,200,000"),
        "2 of 2 inside the predicted interval",
    ):
        assert said in page
    assert "Stages" not in render_html(a_record(), samples()).partition("run.json</summary>")[0]


def test_nothing_gets_out_of_its_place() -> None:
    assert str(tag("p", EVIL, title='"><b>')).count("<") == 2
    assert "\u202e" not in text(EVIL)
    assert "\x1b" not in text(EVIL)
    assert "<" not in embedded_json({EVIL: EVIL})
    assert json.loads(embedded_json({EVIL: EVIL})) == {EVIL: EVIL}
    with pytest.raises(ValueError, match="JSON"):
        embedded_json([float("nan")])
    assert "<" not in label(EVIL)
    assert not label("@blue").startswith("@")


def test_a_hostile_record_closes_no_script_and_no_cell() -> None:
    record = a_record(
        target=EVIL, failures={"rejected": 2}, failure_details={"rejected": {EVIL: 2}}, unknown={EVIL: EVIL}
    )
    page = render_html(record, samples())
    assert page.count("</script>") == 3
    assert "alert(1)</script>" not in page
    both = compare([record, record], [EVIL, "|"], [EVIL, "a|b\nc"])
    cells = [line for line in markdown(both).splitlines() if line.startswith("|")]
    outside_code = re.sub(r"`[^`\n]*`", "", markdown(both))
    assert not re.search(r"(?<!\\)<", outside_code)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in cells}) == 1


def test_numbers_out_of_all_proportion_are_drawn_or_left_out() -> None:
    wild = [a_sample(float(at), rate_per_s=1.7e308, held=10**18 * at, server=a_server()) for at in range(9)]
    embedded_json(figures(render_html(a_record(connections_per_s=1.7e308), wild)))
