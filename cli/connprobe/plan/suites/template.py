"""What ${...} means in a suite. Pure."""

import re
from collections.abc import Iterable, Mapping
from string import Template

# What each is stands in docs/compare.md.
ALWAYS = ("port", "directory", "suite", "home", "python", "cpus")
BEHIND = ("backend_port",)
TLS = ("certificate", "key", "pem")


class BadTemplate(ValueError):
    """The message is one short line; `line` counts from 1 within the template."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def check(text: str, known: Iterable[str]) -> None:
    """Raises BadTemplate for a name that is not `known`, and for a $ that stands alone."""
    known = set(known)
    for match in re.finditer(r"\$\$|\$\{([^}\n]*)\}|\$", text):
        line = text.count("\n", 0, match.start()) + 1
        if match[0] == "$":
            raise BadTemplate("a $ alone: write $$ for the sign itself, ${port} for a value", line)
        if match[1] is not None and match[1] not in known:
            listed = ", ".join(f"${{{name}}}" for name in sorted(known))
            raise BadTemplate(f"there is no ${{{match[1]}}} here; there are {listed}", line)


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` has passed `check`."""
    return Template(text).substitute(values)
