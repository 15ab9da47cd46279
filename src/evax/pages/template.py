"""What every page has in common: how it is rendered and written, and how it says numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evax.evaluation.report import FEW_PATIENTS, PARTIAL, has_marked, marked, resamples_in_words, unlearned
from evax.files import write_text
from evax.pages.drawing import with_prefixed_ids
from evax.runs.files import interval


def write_page(page: Path, template: str, **content: Any) -> Path:
    """Renders a file of templates/, with escaping on, and writes it whole; returns its path.

    content: what the template names; a name it does not find is an error.
    """
    environment = Environment(
        loader=PackageLoader("evax.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": show_number, "interval": show_interval, "duration": show_duration}
    environment.filters |= {"percent": show_percent, "count": lambda value: f"{value:,}"}
    environment.filters |= {"p_value": show_p_value, "marked": marked, "unlearned": unlearned}
    environment.globals |= {
        "resamples_in_words": resamples_in_words,
        "has_marked": has_marked,
        "FEW_PATIENTS": FEW_PATIENTS,
        "PARTIAL": PARTIAL,
    }
    environment.globals["inline"] = inliner()
    text = environment.get_template(template).render(content)
    write_text(text, page)
    return page


def inliner() -> Callable[[str], Markup]:
    """A function that puts figures on one page: each gets ids of its own."""
    numbers = itertools.count(1)
    return lambda svg: Markup(with_prefixed_ids(svg, f"figure{next(numbers)}-"))


def show_number(value: float | None, digits: int = 3) -> str:
    """Three decimals, or that there is no value."""
    return "not defined" if value is None else f"{value:.{digits}f}"


def show_interval(ends: list[float | None]) -> str:
    """The 95 % interval in brackets."""
    known = interval(ends)
    return "[not defined]" if known is None else f"[{known[0]:.3f}, {known[1]:.3f}]"


def show_p_value(p: float | None) -> str:
    """Three decimals; below them, that it is smaller; a dash where it is not defined."""
    if p is None:
        return "–"
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}"


def show_percent(part: int | float, whole: int | float = 1) -> str:
    """A share of a whole, or a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def show_duration(seconds: int | float) -> str:
    """Seconds, minutes or hours, as one would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
