"""Writes docs/run.schema.json from `connprobe.model.RunRecord`, so that the published schema cannot drift.

`--check` writes nothing and fails when the file is not what the model says.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from connprobe.causes import CAUSES
from connprobe.model import SCHEMA, RunRecord

FILE = Path(__file__).with_name("run.schema.json")


def run_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of run.json.

    It describes what connprobe writes, which is stricter than what `RunRecord` would decode: no key is
    ever left out, and connections are lost by the causes of one closed list.
    """
    generated = msgspec.json.schema(RunRecord)
    records = generated["$defs"]
    for record in records.values():
        record["required"] = list(record["properties"])
    run = records.pop("RunRecord")
    run["properties"]["schema"] = {"const": SCHEMA}
    for by_cause in ("failures", "failure_details", "drops", "drop_details"):
        run["properties"][by_cause]["propertyNames"] = {"enum": list(CAUSES)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "run.schema.json",
        **run,
        "title": "run.json of connprobe",
        "$defs": dict(sorted(records.items())),
    }


def encoded() -> str:
    return msgspec.json.format(msgspec.json.encode(run_schema()), indent=2).decode() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 if the file is not current"
    )
    check = parser.parse_args().check
    if not check:
        FILE.write_text(encoded())
    elif not FILE.exists() or FILE.read_text() != encoded():
        sys.stderr.write(
            f"{FILE.name} is not what model.py says. Run: .venv/bin/python docs/make_schema.py\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
