"""Human-readable numbers and lists."""

import math
from collections.abc import Sequence
from typing import Final

_SMALL = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
)  # fmt: skip


DASH: Final = "\N{EN DASH}"
"""Stands in place of a number that does not exist."""


def size(count: float) -> str:
    """A number of bytes with its unit: 61.4 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """A duration, given in seconds: 2 min 05 s, or 3 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def amount(number: int) -> str:
    """A count with thousands separated by narrow no-break spaces: 12 000."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(number: int, noun: str) -> str:
    """A count and its noun: four sites, 1 200 cases."""
    spoken = _SMALL[number] if number < len(_SMALL) else amount(number)
    return f"{spoken} {noun}" if number == 1 else f"{spoken} {noun}s"


def decimal(value: float | None, digits: int) -> str:
    """A number with this many decimals; a dash for None or nan."""
    return DASH if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int) -> str:
    """As `decimal`, with the sign of numbers above 0 too."""
    text = decimal(value, digits)
    return text if text == DASH or text.startswith("-") else f"+{text}"


def between(low: float | None, high: float | None, digits: int) -> str:
    """An interval; empty if an end is None or nan."""
    text = f"{decimal(low, digits)} to {decimal(high, digits)}"
    return "" if DASH in text else text


def together(items: Sequence[str]) -> str:
    """A list as part of a sentence: north, south and east."""
    return " and ".join([*(", ".join(items[:-1]),), items[-1]]) if len(items) > 1 else items[0]
