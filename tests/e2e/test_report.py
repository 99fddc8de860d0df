"""report.html in a real Chromium, and `connprobe report` as its users run it."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connprobe.plan.compare import compare
from connprobe.report.html import render_html
from connprobe.report.html.comparison import render_comparison_html
from connprobe.report.timeline import read_timeline
from connprobe.store.samples import read_samples
from report.limited import LIMITS, limit_samples, limited
from running import Command, Run, check

Start = Callable[..., Command]
CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--window-size=1400,2000"),
)
# Frames have the width of what is tested: a headless window is never narrower than 500 pixels.
LOOK = """<!doctype html><meta charset="utf-8">%s<pre id="seen">not loaded</pre><script>
addEventListener("load", () => setTimeout(() => {
  const seen = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const shown = (each) => each.getBoundingClientRect().height > 0;
    seen[frame.id] = {
      width: frame.contentWindow.innerWidth, scrolls: root.scrollWidth,
      charts: Object.fromEntries([...page.querySelectorAll(".chart")].map((each) =>
        [each.id, shown(each) ? each.querySelectorAll(".main-svg").length : -1])),
      marks: [...page.querySelectorAll(".annotation-text")].map((each) => each.textContent),
      traces: page.querySelectorAll(".main-svg .trace").length,
      tables: [...page.querySelectorAll("table")].filter(shown).map((each) => each.rows.length),
      text: page.body.innerText,
      paper: getComputedStyle(page.body).backgroundColor,
      drawn: [...page.querySelectorAll(".main-svg")].map((each) => each.style.background)[0] || "",
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map((each) => each.name),
      scripted: page.querySelectorAll("b.planted, img, iframe, a").length,
    };
  }
  document.getElementById("seen").textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
}, 3000));
</script>"""


@dataclass
class Looked:
    frames: dict[str, Any]
    console: list[str]


def look(place: Path, frames: str, *flags: str) -> Looked:
    """What Chromium made of the frames, once their scripts were done."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    (place / "look.html").write_text(LOOK % frames)
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={place / 'profile'}", "--enable-logging=stderr"]
    ran = subprocess.run(
        [*command, "--dump-dom", f"file://{place / 'look.html'}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = re.search(r'<pre id="seen">([A-Za-z0-9+/=]+)</pre>', ran.stdout)
    assert found is not None, ran.stderr[-2000:]
    console = [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    return Looked(json.loads(base64.b64decode(found[1])), console)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Run]]:
    """Two real holds."""
    made, commands = [], []
    for number, count in enumerate(("199", "97")):
        results = tmp_path_factory.mktemp(f"run-{number}")
        options = ("--no-bpf", "--json", "--count", count, "--rate", "90", "--for", "300ms")
        commands.append(Command("hold", *options, results=results))
    for command in commands:
        made.append(check(command.finish(), 0))
    yield made
    for command in commands:
        command.end()


def directory(run: Run) -> Path:
    assert run.directory is not None
    return run.directory


def report(start: Start, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
    ran = start("report", *map(str, arguments)).finish()
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stdout, ran.stderr


def test_in_a_browser_every_chart_is_drawn_and_nothing_complains(
    runs: list[Run], start: Start, tmp_path: Path
) -> None:
    place = directory(runs[0])
    shutil.copy(place / "report.html", tmp_path / "hold.html")
    (tmp_path / "limit.html").write_text(render_html(limited(runs[0].record), limit_samples(2)))
    two = [limited(runs[0].record), limited(runs[1].record, limits=LIMITS[1:])]
    text = render_comparison_html(
        compare(two, ["x", "y"], ["", ""]), [read_timeline(limit_samples(1)), read_timeline(limit_samples(2))]
    )
    (tmp_path / "limits.html").write_text(text)
    report(start, "--format", "html", "--output", tmp_path / "both.html", place, directory(runs[1]))
    frames = "".join(
        f'<iframe id="{name}-{width}" src="{name}.html" width="{width}" style="border:0"></iframe>'
        for name in ("hold", "limit", "both", "limits")
        for width in (390, 1200)
    )
    seen = look(tmp_path, frames)
    assert seen.console == []
    expected = {
        "hold": {"memory", "connections", "rate", "cpu", "queue", "growth", "limits"},
        "limit": {"memory", "connections", "rate", "cpu", "queue", "growth", "limits"},
        "both": {"rss", "held", "rate", "time", "cpu", "limits"},
        "limits": {"rss", "held", "rate", "time", "cpu", "limits"},
    }
    for frame, found in seen.frames.items():
        name, _, width = frame.partition("-")
        assert found["width"] == int(width)
        assert found["scrolls"] <= found["width"], frame
        assert set(found["charts"]) == expected[name]
        assert all(number > 0 for number in found["charts"].values()), found["charts"]
        assert found["loaded"] == []
    for size in (390, 1200):
        found = seen.frames[f"limit-{size}"]
        assert {"start", "ramp", "peak", "idle", "messaging", "drain"} <= set(found["text"].split())
        assert "trial 2" in found["marks"]
        assert "trial 2" not in seen.frames[f"hold-{size}"]["marks"]


def test_a_limit_is_shown_as_markdown_and_on_the_terminal(
    runs: list[Run], start: Start, tmp_path: Path
) -> None:
    record = limited(runs[0].record)
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    out, _ = report(start, tmp_path)
    assert out.splitlines()[0] == record.headline
    assert "82.00 ± 0.82 MB" in out
    text, _ = report(start, "--format", "markdown", tmp_path)
    assert "### Predicted and found" in text
    both, _ = report(start, tmp_path, directory(runs[1]))
    assert re.search(r"verified +predicted +16,951", both)
    page, _ = report(start, "--format", "html", "--output", tmp_path / "r.html", tmp_path)
    assert page.strip() == str(tmp_path / "r.html")


def test_without_javascript_the_tables_are_there(runs: list[Run], tmp_path: Path) -> None:
    text = render_html(limited(runs[0].record), read_samples(directory(runs[0])))
    (tmp_path / "limit.html").write_text(text)
    frame = '<iframe id="plain" src="limit.html" width="390" sandbox="allow-same-origin"></iframe>'
    found = look(tmp_path, frame).frames["plain"]
    assert set(found["charts"].values()) == {-1}
    assert sum(rows > 1 for rows in found["tables"]) >= 8
    for said in ("The charts need JavaScript", "16,951", "82.00 ± 0.82 MB", "the server died: SIGABRT"):
        assert said in found["text"]
    assert found["scrolls"] <= found["width"]


def test_in_the_dark_the_charts_are_dark_too(runs: list[Run], tmp_path: Path) -> None:
    shutil.copy(directory(runs[0]) / "report.html", tmp_path / "hold.html")
    frame = '<iframe id="dark" src="hold.html" width="800"></iframe>'
    found = look(tmp_path, frame, "--blink-settings=preferredColorScheme=0").frames["dark"]
    assert found["paper"] == found["drawn"] == "rgb(20, 23, 27)"


def test_a_strangers_text_stays_text(runs: list[Run], tmp_path: Path) -> None:
    evil = '</script><b class="planted">x</b><img src=x onerror="console.error(1)"><a href="http://x">y</a>'
    record = limited(runs[0].record)
    limits = tuple(msgspec.structs.replace(it, scope=evil, resource=evil, fix=evil) for it in record.limits)
    record = msgspec.structs.replace(
        record,
        target=evil,
        headline=evil,
        limits=limits,
        failures={"rejected": 3},
        failure_details={"rejected": {evil: 3}},
        unknown={evil: evil},
    )
    (tmp_path / "evil.html").write_text(render_html(record, read_samples(directory(runs[0]))))
    seen = look(tmp_path, '<iframe id="evil" src="evil.html" width="900"></iframe>')
    assert seen.console == []
    found = seen.frames["evil"]
    assert found["scripted"] == 0
    assert evil in found["text"]
    assert found["charts"]["limits"] > 0


# the command


def test_the_summary_names_the_report(runs: list[Run], start: Start) -> None:
    place = directory(runs[0])
    out, _ = report(start, place)
    assert out.startswith("Held 199 of 199")
    assert str(place / "report.html") in out


def test_a_run_of_an_older_version_gets_its_report(runs: list[Run], start: Start, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(directory(runs[0]), old)
    before = (old / "report.html").read_bytes()
    (old / "report.html").unlink()
    assert "--format html" in report(start, old)[0]
    assert report(start, "--format", "html", old)[0].strip() == str(old / "report.html")
    assert (old / "report.html").read_bytes() == before  # the same input, the same text
    (old / "samples.jsonl").unlink()
    report(start, "--format", "html", old / "run.json")
    assert "0 samples" in (old / "report.html").read_text()
    record = json.loads((old / "run.json").read_text())
    for where, name in (
        ("plan", "worker_processes"),
        ("client", "worker_processes"),
        ("client", "opened_by_io_uring"),
    ):
        del record[where][name]
    (old / "run.json").write_text(json.dumps(record))
    assert report(start, old)[0].startswith("Held 199 of 199")


def test_two_runs_side_by_side(runs: list[Run], start: Start) -> None:
    places = [directory(run) for run in runs]
    out, _ = report(start, *places)
    asked = next(line.split() for line in out.splitlines() if line.lstrip().startswith("connections  "))
    assert asked[-3:] == ["199", "97", "0.49"]
    assert "Server RSS over time" in out
    assert re.search(r"asked for +count +199 +97", out)
    assert re.search(r"\| asked \| 199 \| 97 \| 0.49 \|", report(start, "--format", "markdown", *places)[0])
    compared = json.loads(report(start, "--json", *places)[0])
    held = next(it for it in compared["figures"] if it["name"] == "held")
    assert (held["values"], held["ratios"]) == ([199, 97], [1, 97 / 199])


def test_what_cannot_be_read_is_named(runs: list[Run], start: Start, tmp_path: Path) -> None:
    cut = tmp_path / "run.json"
    cut.write_bytes((directory(runs[0]) / "run.json").read_bytes()[:-200])
    _, err = report(start, directory(runs[0]), cut, code=1)
    assert f"{cut} is damaged" in err
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "watch.json").write_text("{}")
    assert "is of connprobe watch, not a run" in report(start, directory(runs[0]), watched, code=1)[1]
    (tmp_path / "link").symlink_to("elsewhere")
    output = ("--format", "html", "--output", tmp_path / "link")
    assert "is not a regular file" in report(start, *output, directory(runs[0]), code=1)[1]
    assert "exclude each other" in report(start, "--json", "--format", "html", directory(runs[0]), code=2)[1]
