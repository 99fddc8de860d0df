"""Writes the schemas of the records from the model: they cannot drift from it.

`--check` writes nothing and fails when a file is not what the model says.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from connprobe.causes import CAUSES
from connprobe.model import (
    PIPELINE_SCHEMA,
    SCHEMA,
    WATCH_SCHEMA,
    PipelineRecord,
    PipelineSample,
    RunRecord,
    WatchRecord,
    WatchSample,
)
from connprobe.model.base import as_json
from connprobe.model.bout import COMPARE_SCHEMA, Bout, CompareRecord

DOCS = Path(__file__).parent


def run_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of run.json; connections are lost by the causes of one closed list."""
    schema = _schema(RunRecord, SCHEMA, "run")
    for by_cause in ("failures", "failure_details", "drops", "drop_details"):
        schema["properties"][by_cause]["propertyNames"] = {"enum": list(CAUSES)}
    return schema


def watch_schema() -> dict[str, Any]:
    """That of watch.json, with $defs/WatchSample for a line of its samples.jsonl and of --json."""
    return _schema(WatchRecord, WATCH_SCHEMA, "watch", WatchSample)


def pipeline_schema() -> dict[str, Any]:
    """That of pipeline.json, with $defs/PipelineSample for a line of its samples.jsonl."""
    return _schema(PipelineRecord, PIPELINE_SCHEMA, "pipeline", PipelineSample)


def compare_schema() -> dict[str, Any]:
    """That of compare.json, with $defs/Bout for a line of its bouts.jsonl."""
    return _schema(CompareRecord, COMPARE_SCHEMA, "compare", Bout)


def _schema(
    record: type[msgspec.Struct], version: str, name: str, *others: type[msgspec.Struct]
) -> dict[str, Any]:
    """What connprobe writes, which is stricter than what the record would decode: no key is left out."""
    _, records = msgspec.json.schema_components([record, *others], ref_template="#/$defs/{name}")
    for each in records.values():
        each["required"] = list(each["properties"])
    whole = records.pop(record.__name__)
    whole["properties"]["schema"] = {"const": version}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{name}.schema.json",
        **whole,
        "title": f"{name}.json of connprobe",
        "$defs": dict(sorted(records.items())),
    }


def _encoded(schema: dict[str, Any]) -> str:
    return as_json(schema) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is not current")
    check = parser.parse_args().check
    stale = False
    for schema in (run_schema(), watch_schema(), pipeline_schema(), compare_schema()):
        file, text = DOCS / schema["$id"], _encoded(schema)
        if not check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale = True
            sys.stderr.write(
                f"{file.name} is not what model.py says. Run: .venv/bin/python docs/make_schema.py\n"
            )
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
