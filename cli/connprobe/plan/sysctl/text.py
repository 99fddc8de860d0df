"""Profiles written by connprobe itself: what `apply --persist` leaves, and what `plan` computes. Pure."""

import re
from collections.abc import Sequence

from connprobe.plan.sysctl.changes import Row
from connprobe.plan.sysctl.file import Profile
from connprobe.plan.sysctl.keys import dotted
from connprobe.plan.sysctl.needs import Need


def persisted_name(profile: Profile) -> str:
    """The name of its file in /etc/sysctl.d: after the shipped ones, before an administrator's 99."""
    return f"90-connprobe-{re.sub(r'[^A-Za-z0-9_.-]', '_', profile.name)}.conf"


def persisted_text(profile: Profile, rows: Sequence[Row], exact: bool) -> str:
    """The values that are in force after `apply`, for the next boots. No date: twice is the same file."""
    lines = [
        f"# Written by `connprobe sysctl apply {profile.name}{' --exact' if exact else ''} --persist`.",
        "# `connprobe sysctl revert` removes it in this boot; afterwards, remove it by hand.",
    ]
    for row in rows:
        value = row.wanted if exact else row.raised
        if row.now is None or row.writable == "no":
            lines.append(f"# {dotted(row.key)}: {row.problem or 'missing here'}")
        elif not exact and value == row.now and not _holds_some(row):
            lines.append(f"# {dotted(row.key)}: left at {row.now}, not {row.wanted}")
        else:
            lines.append(f"{'-' if row.optional else ''}{dotted(row.key)} = {value}")
    return "\n".join(lines) + "\n"


def _holds_some(row: Row) -> bool:
    """A part of the profile is in force: an earlier `apply` may have raised it, for this boot alone."""
    pairs = zip((row.now or "").split(), row.wanted.split(), strict=False)
    return row.effect == "same" or (row.effect == "lowers" and any(have == want for have, want in pairs))


def needs_text(asked: str, needs: Sequence[Need], beyond: Sequence[str]) -> str:
    """A profile of what a hold needs, each key under its arithmetic. `beyond`: what no sysctl mends."""
    lines = [f"# What {asked} needs on this host, computed from its values of now."]
    for need in needs:
        lines += ["", f"# {need.arithmetic}"]
        change = f"{dotted(need.key)} = {need.value}"
        lines.append(change if need.value is not None else f"# {dotted(need.key)}: enough")
    lines += ["", *(f"# No sysctl mends this: {what}" for what in beyond)] if beyond else []
    return "\n".join(lines) + "\n"
