"""Numbers, sizes, times and foreign text as a person reads them: one place, so that all reports agree.

None, NaN and infinities become a dash; the reason of an unknown figure is shown elsewhere.
"""

import math
import re
import unicodedata

DASH = "\u2013"  # EN DASH
MANY = 10**9
_RAISED = str.maketrans("0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
# CSI, OSC/DCS/SOS/PM/APC strings (ended by BEL, ST, or the text's end) and two-byte escapes: ECMA-48.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|\Z)"
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)
_ASCII = str.maketrans({DASH: "-", "…": "...", "·": "|", "\u00d7": "x", "→": "->", "≥": ">=", "±": "+-"})


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def count(value: float | None) -> str:
    """400000 -> "400,000"."""
    return f"{value:,.0f}" if value is not None and _known(value) else DASH


def many(value: float | None) -> str:
    """As `count` up to a billion, and above as a power of ten: limits nobody ever meets are that large."""
    if value is None or not _known(value) or abs(value) < MANY:
        return count(value)
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa} \u00d7 10{str(int(exponent)).translate(_RAISED)}"


def number(value: float | None) -> str:
    """Three digits where there are decimals: 0.05, 2.5, 92, 12,345."""
    if value is None or not _known(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 999.5 or value == round(value) else f"{value:.3g}"


def nbytes(value: float | None) -> str:
    """12600000 -> "12.6 MB": SI units, powers of 1000; whole bytes below 1 kB."""
    if value is None or not _known(value):
        return DASH
    unit = 0
    # Not 1000: what rounds to "1000.0 kB" is 1.0 MB.
    while unit < len(_SIZES) - 1 and abs(value) >= (999.5 if unit == 0 else 999.95):
        value /= 1000
        unit += 1
    return f"{value:,.0f} B" if unit == 0 else f"{value:,.1f} {_SIZES[unit]}"


def ms(value: float | None) -> str:
    """Milliseconds: "0.84 ms", "12.1 ms", "340 ms", and from ten seconds on "12.3 s"."""
    if value is None or not _known(value):
        return DASH
    if abs(value) >= 9_999.5:
        return duration(value / 1000)
    digits = 0 if abs(value) >= 99.95 or value == 0 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f} ms"


def ms_between(least: float | None, most: float | None) -> str:
    """Milliseconds that are at least and at most so many: "0.31–2.10 ms"; as `ms` where least is None."""
    low, high = ms(least), ms(most)
    if least is None or low == high:
        return high
    return f"{low.removesuffix(' ms') if high.endswith(' ms') else low}{DASH}{high}"


def duration(seconds: float | None) -> str:
    """Seconds: "250 ms", "44.9 s", "2m 05s", "1h 02m", "1d 02h"."""
    if seconds is None or not _known(seconds):
        return DASH
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds == 0 or 0.9995 <= seconds < 119.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0195 else f"{seconds * 1000:.1f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours}h {minutes:02}m"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,}d {hours:02}h"


def rate(per_s: float | None) -> str:
    """8911.2 -> "8,911/s"; "2.3/s" below ten."""
    if per_s is None or not _known(per_s):
        return DASH
    return f"{per_s:.1f}/s" if 0 < abs(per_s) < 9.95 else f"{per_s:,.0f}/s"


def percent(fraction: float | None) -> str:
    """0.523 -> "52.3%". Never "100.0%" before all is there, never "0.0%" once something is."""
    if fraction is None or not _known(fraction):
        return DASH
    if 0 < fraction < 1:
        fraction = min(max(fraction, 0.001), 0.999)
    return f"{fraction * 100:.1f}%"


def printable(text: str, *, limit: int | None = None, encoding: str = "utf-8") -> str:
    """`text` from a server or a command line, made harmless for a terminal.

    Escape sequences go as a whole; line breaks and tabs become spaces; all other control, format and
    surrogate characters go (bidirectional overrides reorder what is read). What `encoding` cannot carry
    becomes its ASCII likeness, or "?". At most `limit` characters.
    """
    text = _ESCAPE.sub("", text)
    text = "".join(
        " " if char in "\t\n\r\v\f\x85\u2028\u2029" else char
        for char in text
        if char in "\t\n\r\v\f\x85" or not unicodedata.category(char).startswith("C")
    )
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
