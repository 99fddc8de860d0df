"""HTML that cannot be broken out of: whatever is not `Html` already is escaped on its way in.

Names of servers, headers and paths are a stranger's text, and a report is opened in a browser.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from connprobe.report import format as fmt

_VOID = frozenset({"meta", "br"})


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


def text(value: str, limit: int | None = None) -> Html:
    """A stranger's text: no control characters, no bidirectional overrides, no markup."""
    return value if isinstance(value, Html) else Html(escape(fmt.printable(value, limit=limit)))


def preformatted(value: str) -> Html:
    """Lines of our own making, such as indented JSON: line breaks stay."""
    return Html("\n".join(text(line) for line in value.split("\n")))


def code(value: str | None) -> Html:
    return tag("code", value) if value else Html("")


def join(parts: Iterable[str], between: str = "") -> Html:
    return Html(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | None) -> Html:
    """`tag("p", "a < b", class_="note")`: `class_` is class, other underlines hyphens, None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(fmt.printable(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, label: str, left: int = 1, right: int = 1
) -> Html:
    """The first `left` and the last `right` columns are words, those between figures. Scrolls in its box."""
    words = len(header) - right

    def kind(index: int) -> str | None:
        return None if index < left else "n" if index < words else "w"

    head = tag("tr", *(tag("th", name, class_=kind(i), scope="col") for i, name in enumerate(header)))
    body = [tag("tr", *(tag("td", cell, class_=kind(i)) for i, cell in enumerate(row))) for row in rows]
    whole = tag("table", tag("thead", head), tag("tbody", *body), aria_label=label)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def pairs(rows: Iterable[tuple[str, str]], *, label: str) -> Html:
    """Names and values, one a line."""
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows]
    whole = tag("table", tag("tbody", *body), class_="pairs", aria_label=label)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def embedded_json(value: Any) -> Html:
    """JSON for a <script> that is data: without "<", nothing in it can end the element (HTML 4.12.1.3).

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    data = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        data = data.replace(char, f"\\u{ord(char):04x}")
    return Html(data)
