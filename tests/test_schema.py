"""The published schemas of all records: current, valid, with every key that others read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from connprobe.causes import CAUSES

DOCS = Path(__file__).parent.parent / "docs"

# What other programs read from run.json. A key may be added; none of these may go or be renamed.
CONTRACT = {
    "RunRecord": "schema command requested held failed failures dropped drops ramp_s connections_per_s "
    "handshake_ms client server runtime kernel listeners limits verified observer host plan verdicts",
    "Distribution": "mean p50 p90 p99 max",
    "ClientFigures": "workers pss_bytes pss_bytes_per_connection workers_pss_bytes_per_connection cpu_s",
    "ServerFigures": "pids start_rss_bytes peak_rss_bytes idle_rss_bytes messaging_rss_bytes cpu_s "
    "bytes_per_connection",
    "RuntimeFigures": "name heap_bytes heap_limit_bytes heap_bytes_per_connection",
    "KernelFigures": "bytes_per_connection slabs",
    "ListenerFigures": "address depth_max capacity overflows wait_ms source",
    "Limit": "resource scope capacity per_connection connections low high fix",
    "ObserverFigures": "cpu_s pss_bytes probes",
}


def load(name: str) -> dict[str, Any]:
    loaded = json.loads((DOCS / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def schema() -> dict[str, Any]:
    return load("run.schema.json")


def test_the_committed_schemas_are_the_generated_ones() -> None:
    checked = subprocess.run(
        [sys.executable, DOCS / "make_schema.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["run.schema.json", "watch.schema.json", "pipeline.schema.json", "compare.schema.json"]
)
def test_it_is_a_valid_schema_of_2020_12(name: str) -> None:
    schema = load(name)
    assert jsonschema.validators.validator_for(schema) is jsonschema.Draft202012Validator
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("record", CONTRACT)
def test_it_requires_every_key_that_others_read(schema: dict[str, Any], record: str) -> None:
    described = schema if record == "RunRecord" else schema["$defs"][record]
    keys = set(CONTRACT[record].split())
    assert keys <= described["properties"].keys()
    assert keys <= set(described["required"])


def test_it_refuses_a_record_without_a_key_and_a_cause_it_does_not_know(schema: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    missing = {tuple(error.path): error.message for error in validator.iter_errors({})}
    assert "required property" in missing[()]

    failures = validator.evolve(schema=schema["properties"]["failures"])
    assert failures.is_valid(dict.fromkeys(CAUSES, 23))
    assert not failures.is_valid({"bad_luck": 1})


def test_the_schema_of_watch_tells_a_reading_and_the_whole_apart() -> None:
    schema = load("watch.schema.json")
    keys = {"schema", "watched", "listeners", "counters", "server", "observer", "verdicts", "unknown"}
    assert keys <= set(schema["required"])
    reading = {"at_s", "lateness_s", "kernel", "server", "observer_cpu_s", "observer_pss_bytes"}
    assert reading <= set(schema["$defs"]["WatchSample"]["required"])
    validator = jsonschema.Draft202012Validator(schema)
    assert not validator.is_valid({"schema": "connprobe/run/1"})
