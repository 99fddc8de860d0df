"""A view on a terminal that is drawn again and again."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


@contextmanager
def shown(view: AbstractContextManager[object]) -> Iterator[None]:
    """A terminal that goes away takes its view along, not the run."""
    with suppress(OSError):
        view.__enter__()
    try:
        yield
    finally:
        with suppress(OSError):
            view.__exit__(None, None, None)


class LiveView:
    """Use as a context manager; it erases itself at the end.

    stdout carries results and is left alone; a stray line on stderr is printed above the view.
    """

    def __init__(self, console: Console) -> None:
        self._fancy = not console.options.ascii_only
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._live.stop()

    def _draw(self, view: RenderableType) -> None:
        self._live.update(view, refresh=True)
