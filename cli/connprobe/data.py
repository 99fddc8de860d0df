"""Where the files are that come with connprobe beside its Python: in the wheel, or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_dir(name: str) -> Path:
    """The directory `name` (as it is called at the top of the repository, e.g. "probes").

    FileNotFoundError: this installation lacks it.
    """
    for place in (_PACKAGE / "_data" / name, _PACKAGE.parent.parent / name):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"this installation of connprobe lacks its {name}/ directory; install it again")
