"""Exact products of the decimal numbers that people give as options."""

from __future__ import annotations

from fractions import Fraction


def exact(number: float) -> Fraction:
    """The shortest decimal number that is stored as this float, for products that are rounded up or down.

    In floats 0.07 * 100 is 7.000000000000001; exact(0.07) * 100 is 7.
    """
    return Fraction(str(float(number)))
