"""What a server that ran already had of others' connections, and what that means for ours."""

from connprobe.model import Trial, Verdict
from connprobe.plan.limits.prediction import fitted

ALONE = "measure while nobody else uses the server, or one of its own: connprobe limit -- COMMAND"
ODD = 2  # connections that are nobody's: what asked the server to send its messages


def others(trial: Trial) -> Verdict | None:
    """None: there were none, or it is not known."""
    counts = [each.others for each in fitted(trial.readings) if each.others is not None]
    most, least = max(counts, default=0), min(counts, default=0)
    opened = trial.others_opened if (trial.others_opened or 0) > ODD else None
    came = f"; {opened:,} of theirs came meanwhile" if opened else ""
    if most > least:
        text = (
            f"Others opened or closed connections to the server too: it had {least:,} to {most:,} of theirs "
            f"while ours came{came}. The intervals are wider by what as many of ours would take."
        )
        return Verdict(level="warning", text=text, fix=ALONE)
    if came:
        text = (
            f"Others connected to the server too: {opened:,} connections of theirs came, and went before it "
            "was read. What they left in its memory and took of its CPU is in these figures."
        )
        return Verdict(level="warning", text=text, fix=ALONE)
    if most:
        text = (
            f"The server had {most:,} connections of others all the while: the numbers are of further ones, "
            "beside those."
        )
        return Verdict(level="note", text=text)
    return None
