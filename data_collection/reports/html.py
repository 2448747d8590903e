"""Pages that hold everything that they show: templates filled, and pictures inside them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import jinja2

_STYLE_PACKAGE = "data_collection.reports"  # where the style is that all pages share


def render(package: str, template: str, view: Mapping[str, Any]) -> str:
    """Return a page; what is not marked as safe is escaped, and what is missing is an error.

    Args:
        package: Where the template is.
        template: Its file name; it may include `style.html.j2`.
        view: What it is filled with.

    Raises:
        jinja2.UndefinedError: The template asks for something that the view lacks.
        jinja2.TemplateNotFound: The package has no such template.
    """
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in (package, _STYLE_PACKAGE)])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(view)


def data_uri(kind: Literal["png", "gif", "jpeg"], image: bytes) -> str:
    """Return the bytes of an image file as an address that needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
