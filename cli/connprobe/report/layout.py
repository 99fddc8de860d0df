"""What the reports on stdout share: harmless text, one width, headings and plain tables."""

from collections.abc import Sequence

from rich.console import Console, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from connprobe.report import format as fmt

PIPED_WIDTH = 100
_WIDEST = 120


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

        Only the last column is broken where the page is too narrow.
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
        self._show(Padding(table, (0, 0, 0, 2)))

    def _show(self, block: RenderableType) -> None:
        # Not console.print(width=...): it never exceeds the console's own width, which is 80 in a pipe,
        # and leaves blanks at the ends of lines.
        options = self.console.options.update(width=self.width)
        for segments in self.console.render_lines(block, options, pad=False):
            line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
            line.rstrip()
            self.console.print(line, soft_wrap=True, highlight=False)
