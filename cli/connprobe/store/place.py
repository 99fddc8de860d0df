"""Where journals and locks are kept, and which boot this is: both end with it."""

import os
from pathlib import Path

from connprobe.errors import RunFailed
from connprobe.store import files


def journal_directory() -> Path:
    """/run/connprobe where we may make it, else $XDG_RUNTIME_DIR/connprobe, else /tmp/connprobe-<uid>.

    Made 0700. Raises RunFailed when the last of them is a link or somebody else's.
    """
    candidates = [Path("/run/connprobe")]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime) / "connprobe")
    for candidate in candidates:
        try:
            return files.private_directory(candidate)
        except OSError:
            continue
    last = Path(f"/tmp/connprobe-{os.geteuid()}")  # noqa: S108 - made 0700, and refused when it is not ours
    try:
        return files.private_directory(last)
    except OSError as error:
        raise RunFailed(
            f"{last} cannot hold the undo journal: {error.strerror}", fix=f"sudo mv {last} {last}.not-ours"
        ) from error


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
