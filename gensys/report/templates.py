"""Fill the templates of pages, which lie beside this file."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["markup", "rendered"]


def rendered(template: str, **values: Any) -> str:
    """A page. Every value is escaped, but for `markup`; one that the template asks for and is not given is an error."""
    import jinja2

    page = jinja2.Environment(
        loader=jinja2.PackageLoader("gensys", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(template)
    return page.render(**values, version=_version(), now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))


def markup(svg: str) -> Markup:
    """SVG of plots.py, which escapes what it is given."""
    from markupsafe import Markup

    return Markup(svg)


def _version() -> str:
    try:
        return version("gensys")
    except PackageNotFoundError:  # the source tree, not installed
        return "of an unknown version"
