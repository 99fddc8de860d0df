"""`connprobe`, and `python -m connprobe`."""

from connprobe.app import run as main

if __name__ == "__main__":
    main()
