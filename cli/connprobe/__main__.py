"""`connprobe`, and `python -m connprobe`."""

import os
import sys


def main() -> None:
    _open_standard_streams()
    try:
        from connprobe.app import run  # the imports take a while, and Ctrl-C may come meanwhile
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def _open_standard_streams() -> None:
    """One that is closed (`>&-`) would be given to the first socket that is opened, and written to."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            setattr(sys, name, open(fd, "w" if fd else "r"))  # noqa: PTH123, SIM115 - a descriptor, kept open


if __name__ == "__main__":
    main()
