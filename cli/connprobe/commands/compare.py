"""`connprobe compare`: servers side by side under the same loads, each started for its turn."""

import re
from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands import options
from connprobe.commands.output import finish, stderr, stdout
from connprobe.errors import UsageError
from connprobe.model.bout import CompareRequest

EXAMPLES = """
Examples:

  connprobe compare targets/balancerbattle.toml --sizes 2000,5000

      http-proxy, nginx, HAProxy, and HAProxy behind hitch, against a plain echo server, without TLS and with
      it: tables, report.html, and each run in a directory of its own. scripts/balancerbattle installs them.

  connprobe compare my-suite.toml --only nginx --only control --repeats 5

  connprobe compare my-suite.toml --skip-missing

      leaves out what is not installed here.

  connprobe compare --resume results/20260102T030405Z-compare-balancerbattle

      makes the runs that are still to come, after Ctrl-C or a power failure.
"""


def compare(
    suite: Annotated[
        Path | None,
        typer.Argument(
            metavar="SUITE.toml",
            help="The contestants and their workloads; or balancerbattle, which comes with connprobe.",
        ),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Numbers of connections, as 2000,5000. Default: the suite's.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Rounds: each contestant runs once in each. Default: the suite's.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this contestant; repeatable.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out contestants whose programs are missing.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the comparison in this directory.")
    ] = None,
    dry_run: options.DryRunOption = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the record (or the plan) alone on stdout.")
    ] = False,
    results: options.ResultsOption = Path("results"),
) -> None:
    """Start each contestant of a SUITE in turn, load it, and put all of them into one table per workload."""
    from connprobe.session.suites.compare import chosen_names, run_compare
    from connprobe.session.suites.suite import find_suite, place_of, read_suite

    if resume is not None:
        if suite is not None or sizes or repeats is not None or only or skip_missing:
            raise UsageError(
                "--resume goes on with what was asked for then: no other suite, sizes, repeats or names",
                fix=f"connprobe compare --resume {resume}",
            )
        request = None
    else:
        if suite is None:
            raise UsageError(
                "compare needs a suite", fix="connprobe compare targets/balancerbattle.toml, or --resume DIR"
            )
        suite = find_suite(suite)
        found = read_suite(suite)
        request = CompareRequest(
            suite=found,
            path=str(suite),
            place=str(place_of(suite)),
            sizes=found.sizes if sizes is None else _sizes(sizes),
            repeats=found.repeats if repeats is None else options.between(repeats, 1, 1000, "--repeats"),
            only=chosen_names(found, only or ()),
            skip_missing=skip_missing,
        )
    finish(run_compare(request, resume, results, stdout(), stderr(), dry_run=dry_run, json=json))


def _sizes(text: str) -> tuple[int, ...]:
    """Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,8}", part) and 0 < int(part) <= 10_000_000 for part in parts):
        raise UsageError(f"--sizes {text!r} are not numbers of connections", fix="--sizes 2000,5000")
    return tuple(dict.fromkeys(map(int, parts)))
