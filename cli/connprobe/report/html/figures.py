"""Figures as plotly reads them, made of plain values: building them takes no import of plotly's.

Colours are names of the style sheet's variables ("@blue"), which the page resolves for light and dark.
A figure's title stands above it in the page, where it can be read without JavaScript.
"""

from collections.abc import Sequence
from typing import Any

from connprobe.report import format as fmt

Figure = dict[str, Any]
Axis = dict[str, Any]
Values = Sequence[float | str | None]

# Okabe and Ito's palette, told apart by all kinds of colour blindness; dashes help in grey.
COLOURS = ("@blue", "@orange", "@green", "@purple", "@sky", "@vermilion", "@yellow", "@ink")
DASHES = ("solid", "solid", "dash", "dot", "dashdot", "longdash", "solid", "dash")


def label(value: str, limit: int = 40) -> str:
    """A stranger's text in a chart: plotly reads some HTML there (links among it)."""
    plain = fmt.printable(value, limit=limit).lstrip("@")
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def axis(title: str, unit: str = "", **more: Any) -> Axis:
    """A linear axis from zero, with SI prefixes: 20 M of unit B is 20MB."""
    return {
        "title": {"text": title, "standoff": 8},
        "tickformat": "~s",
        "ticksuffix": unit,
        "rangemode": "tozero",
        "automargin": True,
        **more,
    }


def curve(x: Values, y: Values, name: str, colour: str, unit: str = "", **more: Any) -> dict[str, Any]:
    """A line. What is drawn at one point of time stays steps, not slopes, only where `more` says so."""
    line = {"color": colour, "width": 2, **more.pop("line", {})}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "name": label(name),
        "line": line,
        "hovertemplate": f"%{{y:.4~s}}{unit}",
        **more,
    }


def band(x: Sequence[float], low: Values, high: Values, name: str, colour: str) -> dict[str, Any]:
    """An area between two lines."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0, "color": colour},
        "name": label(name),
        "hoverinfo": "skip",
    }


def figure(data: list[dict[str, Any]], x: Axis, y: Axis, **layout: Any) -> Figure:
    return {
        "data": data,
        "layout": {
            "xaxis": x,
            "yaxis": y,
            "showlegend": len(data) > 1,
            "hovermode": "x unified",
            **layout,
        },
    }


def upright(x: float, text: str, colour: str, *, anchor: str = "right") -> tuple[Figure, Figure]:
    """A vertical line across the chart with its name at the top: (shape, annotation)."""
    line = {"color": colour, "width": 1.5, "dash": "dash"}
    shape = {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}
    return shape, note(text, x, 1, xanchor=anchor, yanchor="bottom", font={"color": colour, "size": 12})


def note(text: str, x: float, y: float, **more: Any) -> Figure:
    """Text in the chart: x in the units of the axis, y from 0 (bottom) to 1 (top)."""
    return {"text": text, "x": x, "y": y, "yref": "paper", "showarrow": False, **more}
