"""What this host can hold, resource by resource: the smallest number first, with what lifts it."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from connprobe.model import Capacity
from connprobe.report import format as fmt
from connprobe.report.layout import Page

Check = tuple[str, bool, str, str]  # what, whether it is well, what was found, the fix


def render_doctor(
    tables: Mapping[str, Sequence[Capacity]], console: Console, asked: int, checks: Sequence[Check] = ()
) -> None:
    """Prints one table for each way to connect, e.g. "to a remote server", what would lift what is too
    small for `asked` connections, then `checks`.

    A table is sorted by connections: its first row binds. Sources and fixes follow on lines of their own,
    once for each resource, so that they can be copied.
    """
    page = Page(console)
    everything: list[Capacity] = []
    for title, capacities in tables.items():
        ordered = sorted(capacities, key=lambda it: it.connections)
        _capacities(page, title, ordered)
        everything += ordered
    if everything:
        page.heading(f"Where from, and what makes room for {fmt.count(asked)}")
    for resource, source in dict.fromkeys((it.resource, it.source) for it in everything):
        page.line("  ", (resource, "bold"), f": {source}")
        fixes = (it.fix for it in everything if (it.resource, it.source) == (resource, source))
        for fix in dict.fromkeys(fix for fix in fixes if fix):
            page.line("      ", ("fix: ", "green"), fix)
    if checks:
        page.heading("Checks")
        for what, well, found, fix in checks:
            page.line("  ", ("ok      ", "green") if well else ("missing ", "bold red"), what, f": {found}")
            if fix and not well:
                page.line("          ", ("fix: ", "green"), fix)


def _capacities(page: Page, title: str, capacities: Sequence[Capacity]) -> None:
    if not capacities:
        return
    first = capacities[0]
    page.heading(f"{title}: {fmt.count(first.connections)} connections, bound by {first.resource}")
    rows: list[list[str | Text]] = [
        [
            page.text(it.resource, "bold yellow" if it is first else ""),
            page.text(fmt.count(it.connections), "bold yellow" if it is first else ""),
            _amount(it, it.capacity),
            _amount(it, it.used),
            _amount(it, it.per_connection),
            "binds" if it is first else "",
        ]
        for it in capacities
    ]
    page.table(rows, header=("resource", "connections", "capacity", "used", "per conn.", ""))


def _amount(capacity: Capacity, value: float) -> str:
    """Memory in bytes, all else as it is counted."""
    return fmt.nbytes(value) if "memory" in capacity.resource else fmt.number(value)
