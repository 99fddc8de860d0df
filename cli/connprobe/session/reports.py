"""What `connprobe report` shows of one run or several."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console

from connprobe.errors import RunFailed, UsageError
from connprobe.model import RunRecord
from connprobe.model.base import as_json
from connprobe.plan.compare import MOST_RUNS, compare
from connprobe.report.limited import render_limit_record
from connprobe.report.loaded import render_load_record
from connprobe.report.pipeline import render_pipeline
from connprobe.report.summary import headline, render_summary
from connprobe.store.bouts import COMPARE, REQUEST, read_compare
from connprobe.store.output import write_output
from connprobe.store.rundir import REPORT, WATCH, is_pipeline, load_pipeline, load_record
from connprobe.store.samples import read_samples

Format = Literal["terminal", "markdown", "html", "json"]
COMPARISON = "comparison.html"
STDOUT = "-"


def report_run(path: Path, out: Console, form: Format, output: str | None) -> None:
    """One run. Raises RunFailed for a record that cannot be read, or a file that cannot be written."""
    if (path / COMPARE).is_file():
        _report_compare(path, out, form, output)
        return
    if is_pipeline(path):
        _report_pipeline(path, out, form, output)
        return
    record, directory = _load(path), _directory(path)
    match form:
        case "terminal":
            there = _there(path)
            render = {"limit": render_limit_record, "load": render_load_record}.get(
                record.command, render_summary
            )
            _terminal(lambda page: render(record, page, results=str(path), report=there), out, output)
        case "json":
            _put(_json(record), out, output)
        case "html":
            from connprobe.report.html import render_html

            _put(render_html(record, read_samples(directory)), out, output or str(directory / REPORT))
        case "markdown":
            from connprobe.report.compared import markdown
            from connprobe.report.markdown import limit_markdown

            figures = markdown(compare([record], [str(path)], [_said(record)]))
            _put(figures + limit_markdown(record), out, output)


def _report_compare(path: Path, out: Console, form: Format, output: str | None) -> None:
    from connprobe.report import standings

    record = read_compare(path)
    match form:
        case "terminal":
            _terminal(lambda page: standings.render_compare(record, page, results=str(path)), out, output)
        case "json":
            _put(_json(record), out, output)
        case "html":
            from connprobe.report.html.standings import render_compare_html

            _put(render_compare_html(record), out, output or str(path / REPORT))
        case "markdown":
            _put(standings.markdown(record), out, output)


def _report_pipeline(path: Path, out: Console, form: Format, output: str | None) -> None:
    record = load_pipeline(path)
    match form:
        case "terminal":
            there = _there(path)
            _terminal(
                lambda page: render_pipeline(record, page, results=str(path), report=there), out, output
            )
        case "json":
            _put(_json(record), out, output)
        case "html":
            from connprobe.report.html import render_html

            _put(render_html(record, ()), out, output or str(_directory(path) / REPORT))
        case "markdown":
            from connprobe.report.markdown import pipeline_markdown

            _put(pipeline_markdown(record), out, output)


def _there(path: Path) -> str:
    """Where the report of a run is."""
    made = _directory(path) / REPORT
    return str(made) if made.is_file() else f"none; connprobe report --format html {path} makes it"


def report_runs(paths: Sequence[Path], out: Console, form: Format, output: str | None) -> None:
    """Several runs side by side; their order is kept, and ratios are to the first. Raises as `report_run`."""
    if len(paths) > MOST_RUNS:
        raise UsageError(
            f"{len(paths)} runs are too many for one table", fix=f"compare {MOST_RUNS} at a time"
        )
    records = [_load(path) for path in paths]
    comparison = compare(records, [str(path) for path in paths], [_said(record) for record in records])
    if form == "json":
        _put(_json(comparison), out, output)
        return
    from connprobe.report.compared import markdown, render_comparison
    from connprobe.report.timeline import read_timeline

    if form == "markdown":
        _put(markdown(comparison), out, output)
        return
    lines = [read_timeline(read_samples(_directory(path))) for path in paths]
    if form == "html":
        from connprobe.report.html.comparison import render_comparison_html

        _put(render_comparison_html(comparison, lines), out, output or COMPARISON)
    else:
        _terminal(lambda page: render_comparison(comparison, lines, page), out, output)


def _load(path: Path) -> RunRecord:
    try:
        return load_record(path)
    except RunFailed:
        if (path / COMPARE).is_file():
            raise RunFailed(
                f"{path} is of connprobe compare: it stands beside nothing else",
                fix=f"connprobe report {path}, or the directories of its runs: {path}/runs/*",
            ) from None
        if (path / REQUEST).is_file():
            raise RunFailed(
                f"the comparison in {path} is not finished: it has no {COMPARE} yet",
                fix=f"connprobe compare --resume {path}",
            ) from None
        if is_pipeline(path):
            raise RunFailed(
                f"{path} is of connprobe pipeline: it stands beside nothing else",
                fix=f"connprobe report {path}",
            ) from None
        if (path / WATCH).is_file():
            raise RunFailed(
                f"{path} is of connprobe watch, not a run: it has a {WATCH} and no run.json",
                fix=f"read {path / WATCH}, or name the directory of a run",
            ) from None
        raise


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _said(record: RunRecord) -> str:
    return record.headline or headline(record)


def _json(record: msgspec.Struct) -> str:
    return as_json(record) + "\n"


def _terminal(render: Callable[[Console], None], out: Console, output: str | None) -> None:
    if output is None or output == STDOUT:
        render(out)
        return
    with Path(os.devnull).open("w") as nowhere:
        page = Console(file=nowhere, record=True, highlight=False)
        render(page)
        _put(page.export_text(), out, output)


def _put(text: str, out: Console, output: str | None) -> None:
    """On `out`, or in a file, whose name is then printed."""
    if output is None or output == STDOUT:
        out.file.write(text)
    else:
        write_output(Path(output), text)
        out.file.write(f"{output}\n")
