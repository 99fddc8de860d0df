"""What the reports on stdout share: harmless text, one width, headings and plain tables."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from connprobe.report import format as fmt
from connprobe.report.rows import Rows

PIPED_WIDTH = 100
_WIDEST = 120
_GAP, _INDENT = 2, 2
_NARROWEST_TABLE = 60
_LEAST_WORDS = 14  # columns: words are broken, but not into single letters


class Page:
    """Prints on `console`; everything that passes through here is escaped, nothing is read as markup.

    On a terminal lines end at its width, at most 120 columns; in a pipe or file at 100.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = min(console.width, _WIDEST) if console.is_terminal else PIPED_WIDTH

    def text(self, text: str, style: str = "", *, limit: int | None = None) -> Text:
        return Text(fmt.printable(text, encoding=self.console.encoding, limit=limit), style, overflow="fold")

    def line(self, *parts: str | tuple[str, str]) -> None:
        """One logical line, never broken: paths and commands stay whole for copying."""
        line = Text()
        for part in parts:
            line.append_text(self.text(part) if isinstance(part, str) else self.text(*part))
        self.console.print(line, soft_wrap=True, highlight=False)

    def paragraph(self, text: str, style: str = "", indent: int = 0) -> None:
        """Text broken at the width of the page."""
        self._show(Padding(self.text(text, style), (0, 0, 0, indent)))

    def heading(self, text: str) -> None:
        self.console.print()
        self.line((text, "bold"))

    def table(
        self, rows: Sequence[Sequence[str | Text]], *, left: int = 1, header: Sequence[str] = ()
    ) -> None:
        """Columns without lines: the first `left` ones and the last are words, those between are figures.

        Only the last column is broken where the page is too narrow. Below 60 columns the terminal breaks the
        lines: a figure that lost its last digits would be another figure.
        """
        columns = max((len(row) for row in rows), default=0)
        table = Table(box=None, show_header=bool(header), padding=(0, 2, 0, 0), pad_edge=False)
        for index in range(columns):
            last = index == columns - 1
            name = self.text(header[index], "dim") if header else ""
            justify: JustifyMethod = "left" if index < left or last else "right"
            table.add_column(name, justify=justify, overflow="fold", no_wrap=not last)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else self.text(cell) for cell in row))
        self._show(Padding(table, (0, 0, 0, 2)), max(self.width, _NARROWEST_TABLE))

    def figures(self, table: Rows) -> None:
        """A table of which no figure is ever cut: columns that find no room come in another one below.

        Where not even one finds room beside the first, each figure has a line of its own.
        """
        cells = [table.header, *table.rows]
        widths = [max(cell_len(self.text(row[at]).plain) for row in cells) for at in range(len(table.header))]
        room = self.width - _INDENT
        *between, last = range(1, len(widths))
        first = widths[0]
        if first + sum(widths[at] + _GAP for at in between) > room:
            first = min(first, max(_LEAST_WORDS, room // 3))
        if any(first + _GAP + widths[at] > room for at in between):
            self._stacked(table)
            return
        groups: list[list[int]] = [[]]
        for at in between:
            if groups[-1] and first + sum(widths[it] + _GAP for it in [*groups[-1], at]) > room:
                groups.append([])
            groups[-1].append(at)
        if any(row[last] for row in table.rows):
            left = room - first - sum(widths[it] + _GAP for it in groups[-1]) - _GAP
            if left < min(widths[last], 2 * _LEAST_WORDS):
                groups.append([])
            groups[-1].append(last)
        for number, group in enumerate(groups):
            if number:
                self.console.print()
            self._group(table, group, first, last)

    def _group(self, table: Rows, group: Sequence[int], first: int, last: int) -> None:
        titled = any(table.header[at] for at in (0, *group))
        grid = Table(box=None, show_header=titled, padding=(0, _GAP, 0, 0), pad_edge=False)
        grid.add_column(self.text(table.header[0], "dim"), width=first, overflow="fold")
        for at in group:
            words = at == last
            grid.add_column(
                self.text(table.header[at], "dim"),
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=not words,
            )
        for index, row in enumerate(table.rows):
            style = "bold" if index in table.strong else ""
            grid.add_row(*(self.text(row[at], style) for at in (0, *group)))
        self._show(Padding(grid, (0, 0, 0, _INDENT)))

    def _stacked(self, table: Rows) -> None:
        for index, row in enumerate(table.rows):
            self.paragraph(row[0], "bold" if index in table.strong else "", indent=_INDENT)
            for title, cell in zip(table.header[1:], row[1:], strict=True):
                if cell:
                    self.line(f"    {title} ".rstrip() + " ", cell)

    def _show(self, block: RenderableType, width: int | None = None) -> None:
        # Not console.print(width=...): it never exceeds the console's own width, which is 80 in a pipe,
        # and leaves blanks at the ends of lines.
        options = self.console.options.update(width=width or self.width)
        for segments in self.console.render_lines(block, options, pad=False):
            line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
            line.rstrip()
            self.console.print(line, soft_wrap=True, highlight=False)
