"""Self-contained HTML pages: templates that extend `base.html.j2`, with images as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import jinja2

_BASE_PACKAGE = "data_collection.reports"  # of base.html.j2, the frame and style of all pages


def render(package: str, template: str, view: Mapping[str, Any]) -> str:
    """Return a page. Values that are not marked as safe are escaped.

    Args:
        package: Package of the template.
        template: File name; the template extends `base.html.j2`.
        view: Values of the template.

    Raises:
        jinja2.UndefinedError: The view lacks a value that the template uses.
        jinja2.TemplateNotFound: The package has no such template.
    """
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in (package, _BASE_PACKAGE)])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(view)


def count(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not one."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def data_uri(kind: Literal["png", "gif", "jpeg", "webp"], image: bytes) -> str:
    """Return the bytes of an image file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
