"""Pages that hold everything that they show: templates filled, and pictures inside them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import jinja2


def render(template: str, view: Mapping[str, Any]) -> str:
    """Return a page of this package; what is not marked as safe is escaped, and what is missing an error."""
    loader = jinja2.PackageLoader("planner", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(view)


def data_uri(kind: Literal["png", "gif"], image: bytes) -> str:
    """Return the bytes of an image file as an address that needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
