"""The charts of a comparison in a terminal: each run a line of its colour, or of its letter."""

import re
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from connprobe.report import format as fmt
from connprobe.report.layout import Page
from connprobe.report.timeline import Timeline

_COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")
_HEIGHT, _TICKS = 14, 5
_PAINTED = re.compile(r"\x1b\[(?:48;5;\d+|38;5;0)m")
Points = tuple[list[float], list[float]]


def plots(lines: Sequence[Timeline], labels: Sequence[str], page: Page) -> list[tuple[str, Text]]:
    """(title, chart) of what any run was read for; [] where the terminal has no line characters."""
    if fmt.printable("\u2502", encoding=page.console.encoding) != "\u2502":
        return []
    charts = (
        ("Connections held over time", [_known(it, "held") for it in lines], fmt.count),
        ("Server RSS over time", [_known(it, "rss") for it in lines], fmt.nbytes),
    )
    made = []
    for title, series, unit in charts:
        if any(len(x) > 1 for x, _ in series):
            made.append((title, _plot(series, labels, page, unit)))
    return made


def _known(line: Timeline, name: str) -> Points:
    x, y = line.thinned.points(name)
    known = [(at, value) for at, value in zip(x, y, strict=True) if value is not None]
    return [at for at, _ in known], [value for _, value in known]


def _plot(series: Sequence[Points], labels: Sequence[str], page: Page, unit: Any) -> Text:
    import plotext  # takes a fifth of a second

    coloured = page.console.is_terminal and not page.console.no_color
    figure = plotext.figure
    figure.clear()
    figure.plot_size(page.width, _HEIGHT)
    for index, ((x, y), label) in enumerate(zip(series, labels, strict=True)):
        if x:
            marker = plotext.marker("braille", _COLOURS[index % len(_COLOURS)]) if coloured else label
            figure.draw(figure.signal(x, y, marker=marker).lines().label(label))
    top = max(value for _, y in series for value in y) or 1.0
    end = max(at for x, _ in series for at in x) or 1.0
    _ruler(figure, "y", top, unit)
    _ruler(figure, "x", end, fmt.duration)
    if not coloured:  # the letters say it, and the box would lie on them
        figure.legend(False)
    # The terminal's own background and foreground, whatever plotext takes for them.
    return Text.from_ansi(_PAINTED.sub("", figure.build().string(colorless=not coloured)).rstrip())


def _ruler(figure: Any, axis: str, top: float, unit: Any) -> None:
    values = [top * step / (_TICKS - 1) for step in range(_TICKS)]
    ruler = figure.ruler(axis=axis)
    ruler.lim(0.0, top)
    ruler.ticks(values, [unit(value) for value in values])
