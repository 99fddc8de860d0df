"""`connprobe sysctl`: tune a kernel for a run by a profile, see what that changes, and get back what was."""

from typing import Annotated

import typer

from connprobe.commands.options import LARGEST_COUNT
from connprobe.commands.output import finish, stdout
from connprobe.errors import UsageError
from connprobe.plan.parse import parse_target

sysctl_app = typer.Typer(
    help="Kernel settings by profile: apply, see what they do, and get back exactly what was there.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ProfileName = Annotated[
    str, typer.Argument(metavar="PROFILE", help="A name from `list`, a path, or - for standard input.")
]
Exact = Annotated[bool, typer.Option("--exact", help="The values as written, also where they are lower.")]

EXAMPLES = """
Examples:

  connprobe sysctl show gigabit

      each key, its value now, and whether the profile raises or lowers it.

  connprobe sysctl apply gigabit

      raises what the profile raises, lowers nothing.

  connprobe sysctl revert

      puts back exactly what was there before.

  connprobe sysctl plan --count 400000 --target host:8080 | connprobe sysctl apply -
"""


@sysctl_app.command("list")
def list_() -> None:
    """The profiles that go by a name: shipped ones, and yours in ~/.config/connprobe/sysctl.d."""
    from connprobe.report.sysctl import render_list
    from connprobe.session.sysctl.profiles import list_profiles

    found = [(it.name, it.problem or it.about, str(it.path)) for it in list_profiles()]
    render_list(found, stdout())
    finish(0)


@sysctl_app.command()
def show(profile: ProfileName) -> None:
    """What a profile would do here: key, value now, value of the profile, effect, meaning."""
    from connprobe.report.sysctl import render_rows
    from connprobe.session.sysctl.applying import inspect
    from connprobe.session.sysctl.profiles import load
    from connprobe.system.sysctl import PAGE_BYTES, Tree

    loaded = load(profile)
    render_rows(loaded, inspect(loaded, Tree()), stdout(), PAGE_BYTES)
    finish(0)


@sysctl_app.command()
def check(
    profile: ProfileName,
    exact: Annotated[bool, typer.Option("--exact", help="Exit 4 also where the kernel gives more.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result alone on stdout.")] = False,
) -> None:
    """Exit 4 where this kernel gives less than the profile asks. A key that is missing here is no miss."""
    from connprobe.report.sysctl import render_rows, render_verdict
    from connprobe.session.sysctl.applying import checked, inspect
    from connprobe.session.sysctl.profiles import load
    from connprobe.system.sysctl import PAGE_BYTES, Tree

    loaded = load(profile)
    rows = inspect(loaded, Tree())
    result = checked(loaded, rows, exact)
    if json:
        from connprobe.model.base import as_json

        stdout().file.write(as_json(result) + "\n")
    else:
        render_rows(loaded, rows, stdout(), PAGE_BYTES)
        render_verdict([it.key for it in result.keys if not it.ok], loaded.name, exact, stdout())
    finish(0 if result.ok else 4)


@sysctl_app.command()
def apply(
    profile: ProfileName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, write nothing.")
    ] = False,
    exact: Exact = False,
    persist: Annotated[
        bool, typer.Option("--persist", help="Also write a file in /etc/sysctl.d, for the next boots.")
    ] = False,
) -> None:
    """Raise what the profile raises, until `revert`. Asks nothing and lowers nothing."""
    from connprobe.report.sysctl import render_changes, render_lines
    from connprobe.session.interrupts import Interrupts
    from connprobe.session.sysctl.applying import PERSISTED, preview
    from connprobe.session.sysctl.applying import apply as apply_profile
    from connprobe.session.sysctl.profiles import load
    from connprobe.system.sysctl import Tree

    loaded = load(profile)
    out = stdout()
    if dry_run:
        would = preview(loaded, exact, Tree())
        title = f"{loaded.name}: {_keys(len(would.changes))} would be written; nothing was touched"
        render_changes(title, would.changes, (), would.left, out)
        finish(0)
    with Interrupts() as interrupts:
        done = apply_profile(
            loaded,
            exact=exact,
            persist_in=PERSISTED if persist else None,
            tree=Tree(),
            stop=lambda: interrupts.by is not None,
        )
    title = f"{loaded.name}: {_keys(len(done.changes))} written, as id {done.number}"
    render_changes(title, done.changes, done.said, done.left, out)
    last = ["until the next boot, or: connprobe sysctl revert"]
    if done.file is not None:
        verb = "was there already" if done.file_was_there else "written"
        last.insert(0, f"{done.file} {verb}: these values hold for the next boots too")
    if not exact and done.held_back:
        last.insert(0, "--exact writes every value of the profile, lower or not")
    render_lines(last, out)
    finish(0)


@sysctl_app.command()
def revert(
    every: Annotated[bool, typer.Option("--all", help="Everything that is applied, newest first.")] = False,
    number: Annotated[int | None, typer.Option("--id", help="The apply of this id: see status.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also put back what somebody else changed since.")
    ] = False,
) -> None:
    """Put back exactly what the last apply found, or what a killed one left."""
    from connprobe.report.sysctl import render_lines, render_reverted
    from connprobe.session.interrupts import Interrupts
    from connprobe.session.sysctl.applying import revert as revert_applied
    from connprobe.system.sysctl import Tree

    if every and number is not None:
        raise UsageError("--all and --id exclude each other", fix="connprobe sysctl revert --all")
    with Interrupts():  # undoing is never cut short
        done = revert_applied(number=number, everything=every, force=force, tree=Tree())
    out = stdout()
    for each in done:
        render_reverted(each.who, each.report, out)
    if not done:
        render_lines(["nothing to revert: nothing is applied"], out)
    finish(1 if any(each.report.pending for each in done) else 0)


@sysctl_app.command()
def status() -> None:
    """What is applied, since when, by which profile, and what somebody else changed since."""
    from connprobe.report.sysctl import render_lines, render_standing
    from connprobe.session.sysctl.applying import PERSISTED
    from connprobe.session.sysctl.status import status as read_status
    from connprobe.system.sysctl import Tree

    found, out = read_status(Tree(), PERSISTED), stdout()
    for title, keys in (*found.killed, *found.applied):
        render_standing(title, keys, out)
    lines = list(found.damaged)
    if not (found.applied or found.killed or found.damaged):
        lines.append("nothing is applied")
    if found.killed:
        lines.append("what was killed is put back by: connprobe sysctl revert")
    if found.busy is not None:
        lines.append(f"now: {found.busy}")
    if found.hidden is not None:
        lines.append(f"{found.hidden}: sudo connprobe sysctl status")
    lines += [f"{file} sets its values at each boot" for file in found.files]
    render_lines(lines, out)
    finish(0)


@sysctl_app.command()
def plan(
    count: Annotated[int, typer.Option(help="Connections to hold.")] = 10_000,
    target: Annotated[
        str | None, typer.Option(help="HOST:PORT. Without it: an embedded server on loopback.")
    ] = None,
) -> None:
    """The sysctls that this hold needs changed here, each with its arithmetic, as a profile for `apply -`."""
    from connprobe.report.sysctl import render_lines
    from connprobe.session.sysctl.planning import plan_profile

    if not 1 <= count <= LARGEST_COUNT:
        raise UsageError(f"--count {count} is not between 1 and {LARGEST_COUNT:,}", fix="--count 400000")
    if target is not None:
        parse_target(target)
    render_lines(plan_profile(count, target).splitlines(), stdout())
    finish(0)


def _keys(number: int) -> str:
    return f"{number:,} key{'' if number == 1 else 's'}"
