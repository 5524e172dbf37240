"""Formats figures for people."""

from __future__ import annotations


def age_text(seconds: float) -> str:
    """ "45 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 48 * 3_600 else f"{seconds / 86_400:.1f} days"


def amount(number: float) -> str:
    """ "950", "12.3k", "4.5M": about three digits."""
    unit = 0
    while abs(number) >= 999.5 and unit < len("kMGT"):
        number, unit = number / 1000, unit + 1
    digits = 1 if unit and abs(number) < 99.95 else 0
    return f"{number:.{digits}f}{' kMGT'[unit].strip()}"
