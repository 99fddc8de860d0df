"""Where the files live that belong to connprobe but are no Python: profiles, probes, reference servers."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_dir(name: str) -> Path:
    """The directory "sysctl.d", "probes" or "targets": inside the installed package, or of the checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent.parent / name
