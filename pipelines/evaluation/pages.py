"""How the templates of the pages are filled in."""

from __future__ import annotations

from collections.abc import Callable

import jinja2


def environment(**filters: Callable[..., str]) -> jinja2.Environment:
    """HTML is escaped, Markdown is not; a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.evaluation"),
        autoescape=jinja2.select_autoescape(["html", "html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters
    return made
