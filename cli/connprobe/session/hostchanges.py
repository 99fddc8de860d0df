"""What a run changes on this host: written down before it is changed, and put back at its end."""

from collections.abc import Callable
from contextlib import ExitStack

from connprobe.errors import RunFailed
from connprobe.model import HoldPlan
from connprobe.session.outcome import Seen
from connprobe.session.undo import LOCK, LOCK_PATIENCE_S, undo_all
from connprobe.store.journal import Journal
from connprobe.store.lock import exclusive
from connprobe.system.addresses import add_addresses
from connprobe.system.sysctl import Tree, set_values


def change_host(
    undo: ExitStack, plan: HoldPlan, command: str, seen: Seen, interrupted: Callable[[], bool]
) -> None:
    """Sysctls first: an address may need what they allow."""
    if not plan.alias_addresses and not plan.sysctls:
        return
    if plan.sysctls:
        undo.enter_context(exclusive(LOCK, f"connprobe {command} --sysctl", patience_s=LOCK_PATIENCE_S))
    journal = Journal.create(command)
    undo.push(lambda kind, error, trace: _put_back(journal, seen, error))
    if plan.sysctls:
        seen.made_otherwise = tuple(set_values(Tree(), plan.sysctls, journal.record, interrupted))
    if plan.alias_addresses:
        assert plan.alias_interface is not None
        add_addresses(plan.alias_interface, list(plan.alias_addresses), journal.record)


def _put_back(journal: Journal, seen: Seen, error: BaseException | None) -> None:
    """What could not be undone stands in the record, or in the error where there will be none."""
    report = undo_all(journal)
    seen.not_undone = tuple(report.pending)
    journal.close()
    if report.pending and isinstance(error, RunFailed):
        message = f"{error.message}; NOT put back: {'; '.join(report.pending)}"
        raise RunFailed(message, fix=error.fix or "connprobe restore") from error
