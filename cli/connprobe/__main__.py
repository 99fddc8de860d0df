"""`connprobe`, and `python -m connprobe`."""

import sys


def main() -> None:
    try:
        from connprobe.app import run  # the imports take a while, and Ctrl-C may come meanwhile
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
