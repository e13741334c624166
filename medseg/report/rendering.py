"""Pages from templates: one style, no script, nothing from outside."""

from __future__ import annotations

import math
from datetime import datetime
from importlib import resources
from typing import Any


def render(template: str, **values: Any) -> str:
    """A page from a template of this package, with the time of its making and the common style."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("medseg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure_text
    return environment.get_template(template).render(
        style=Markup(resources.files("medseg.report").joinpath("style.css").read_text("utf-8")),
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        **values,
    )


def figure_text(value: float, digits: int = 3) -> str:
    """A number for a reader: a dash for NaN, ∞ for infinity."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
