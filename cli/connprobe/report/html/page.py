"""One file that opens from a disk without a network: markup, style, charts and their program together."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from connprobe.report.html.figures import Figure
from connprobe.report.html.markup import Html, embedded_json, join, tag
from connprobe.version import __version__

NO_SCRIPT = "The charts need JavaScript. Every figure in them is in the tables of this page."


def page(title: str, body: Html, figures: Mapping[str, Figure]) -> str:
    """The whole document. `figures` by the ids of the elements that `chart` made."""
    scripts = _scripts() if figures else ()
    data = tag("script", embedded_json(figures), type="application/json", id="figures")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content=f"connprobe {__version__}"),
        tag("title", title),
        tag("style", _resource("page.css")),
        tag("noscript", tag("style", Html(".chart{display:none}"))),
    )
    end = join([data, *(tag("script", script) for script in scripts)] if figures else [])
    whole = tag("html", head, tag("body", body, end), lang="en")
    return f"<!doctype html>\n{whole}\n"


def chart(name: str, title: str, note: str = "") -> Html:
    """Where the figure of that name is drawn."""
    caption = tag("figcaption", title, *([tag("p", note)] if note else []))
    return tag("figure", caption, tag("div", id=name, class_="chart", role="img", aria_label=title))


def no_script() -> Html:
    return tag("noscript", tag("p", NO_SCRIPT, class_="quiet"))


def _policy(scripts: tuple[Html, ...]) -> str:
    """Nothing is loaded, and only our own scripts run. plotly styles elements as it draws."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _resource(name: str) -> Html:
    return Html((files("connprobe.report.html") / name).read_text("utf-8"))


def _scripts() -> tuple[Html, ...]:
    """plotly.js as its Python package carries it, and what draws. Importing plotly itself takes long.

    A script ends at the first "</script", wherever it stands; in a string "<\\/script" is the same.
    """
    plotly = (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    plotly = plotly.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return Html(plotly), _resource("page.js")
