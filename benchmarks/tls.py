"""What a TLS connection takes of the memory at both ends, and what resumption saves: benchmarks/tls.md.

    python benchmarks/tls.py [--count 20000] [--handshakes 5000] [--write]

HTTP keep-alive connections are held against the embedded server and against nginx, plain and over TLS; then
connections come and go over TLS, with full handshakes and with `--tls-resume`. The certificate is EC P-256.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import replace_block
from benchmarks.load import listens, wait_until

from benchmarks import processes
from connprobe.session.certificate import Certificate, make_certificate

NOTES = Path(__file__).with_name("tls.md")
CONCURRENCY = 100
PATIENCE_S = 900.0
NGINX = """
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid nginx.pid;
error_log stderr emerg;
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_timeout 1d;
  keepalive_requests 1000000;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  ssl_session_cache shared:sessions:10m;
  server {{ listen 127.0.0.1:{plain} backlog=65535 reuseport; return 200 "ok"; }}
  server {{ listen 127.0.0.1:{tls} ssl backlog=65535 reuseport; return 200 "ok"; }}
}}
"""


@contextmanager
def nginx(place: Path, made: Certificate, count: int) -> Iterator[tuple[int, int]]:
    """Yields its ports, plain and of TLS. Of its processes none is to be full: hashing is uneven."""
    plain, tls = processes.free_port(), processes.free_port()
    configuration = place / "nginx.conf"
    workers = max(os.cpu_count() or 1, processes.shares(2 * count))
    values = {"workers": workers, "files": 19_900, "plain": plain, "tls": tls}
    files = {"certificate": made.certificate, "key": made.key}
    configuration.write_text(NGINX.format(**values, **files))
    process = subprocess.Popen(
        ["nginx", "-p", str(place), "-e", "stderr", "-c", str(configuration)], text=True
    )
    try:
        wait_until(lambda: listens(plain) and listens(tls), "nginx does not listen")
        yield plain, tls
    finally:
        processes.end(process)


def run(command: str, *options: str) -> dict[str, Any]:
    """The run's record."""
    with tempfile.TemporaryDirectory() as results:
        asked = [command, "--protocol", "http", *options, "--results", results, "--json"]
        record: dict[str, Any] = json.loads(processes.output([str(processes.CONNPROBE), *asked], PATIENCE_S))
    return record


def held(what: str, record: dict[str, Any]) -> str:
    client, server, count = record["client"], record["server"], record["held"]
    if count != record["requested"]:
        raise processes.BenchmarkError(f"{what}: {count:,} held of {record['requested']:,}")
    cells = [
        whole(client["pss_bytes_per_connection"]),
        whole(client["workers_pss_bytes_per_connection"]),
        whole(server["pss_bytes_per_connection"]),
        each_us(client["cpu_s"], count),
        each_us(server["cpu_s"], count),
    ]
    return f"| {what} | {' | '.join(cells)} |"


def visited(what: str, record: dict[str, Any]) -> str:
    load, count = record["load"], record["requested"]
    if load["visited"] != count:
        raise processes.BenchmarkError(f"{what}: {load['visited']:,} done of {count:,}")
    cells = [
        f"{record['tls_resumed'] or 0:,}",
        f"{record['handshake_ms']['p50']:.1f} ms",
        each_us(load["workers_cpu_s"], count),
        each_us(record["server"]["cpu_s"], count),
    ]
    return f"| {what} | {' | '.join(cells)} |"


def whole(value: float | None) -> str:
    return "not read" if value is None else f"{value:,.0f} B"


def each_us(seconds: float, count: int) -> str:
    return f"{seconds / count * 1e6:,.0f} µs"


def block(holds: Sequence[str], loads: Sequence[str], count: int, handshakes: int) -> str:
    lines = [
        processes.machine(),
        "",
        f"| {count:,} held, HTTP keep-alive | connprobe, PSS each | its workers alone | server, PSS each "
        "| connprobe, CPU each | server, CPU each |",
        "|---|---:|---:|---:|---:|---:|",
        *holds,
        "",
        f"| {handshakes:,} come and go over TLS, nginx | resumed | handshake, median | workers, CPU each "
        "| server, CPU each |",
        "|---|---:|---:|---:|---:|",
        *loads,
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--handshakes", type=int, default=5_000)
    parser.add_argument("--write", action="store_true", help=f"put the tables into benchmarks/{NOTES.name}")
    asked = parser.parse_args()
    holds: list[str] = []
    loads: list[str] = []
    hold = ("hold", "--count", str(asked.count), "--for", "2s", "--concurrency", str(CONCURRENCY))
    load = ("load", "--count", str(asked.handshakes), "--concurrency", str(CONCURRENCY), "--messages", "0")

    def note(lines: list[str], line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as place:
        made = make_certificate(Path(place) / "tls")
        with nginx(Path(place), made, asked.count) as (plain, tls):
            over_tls = ("--target", f"127.0.0.1:{tls}", "--tls", "--ca", str(made.certificate))
            note(holds, held("embedded server, plain", run(*hold)))
            note(holds, held("embedded server, TLS", run(*hold, "--tls")))
            note(holds, held("nginx, plain", run(*hold, "--target", f"127.0.0.1:{plain}")))
            note(holds, held("nginx, TLS", run(*hold, *over_tls)))
            note(loads, visited("full handshakes", run(*load, *over_tls)))
            note(loads, visited("`--tls-resume`", run(*load, *over_tls, "--tls-resume")))
    text = block(holds, loads, asked.count, asked.handshakes)
    print(text)
    if asked.write:
        NOTES.write_text(replace_block(NOTES.read_text(), text, "tls"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
