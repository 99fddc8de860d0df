"""report.html: everything of a run in one file."""

from connprobe.report.html.run import render_html

__all__ = ["render_html"]
