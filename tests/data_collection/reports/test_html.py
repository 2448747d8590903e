"""Pages: rendering, escaping, common style, and errors for missing values."""

import base64
from pathlib import Path

import jinja2
import pytest

from data_collection.reports import html as page

_VIEW = {
    "tasks": ["<b>"],
    "seeds": "0 to 1",
    "variants": {},
    "by_person": False,
    "words": [],
    "rates": [["a"]],
    "paired": [],
    "notes": ["x & y"],
}
_REST = {"shown": [], "failed": "", "measures": {}, "trials": []}


def test_a_template_of_another_package_is_rendered_with_the_common_style() -> None:
    html = page.render("planner.trials", "trials.html.j2", {**_VIEW, **_REST})
    base = Path(page.__file__).with_name("base.html.j2").read_text(encoding="utf-8")
    style = base[base.index("<style>") : base.index("</style>")]
    assert style in html and html.startswith("<!DOCTYPE html>") and html.count("</main>") == 1
    assert "<b>" not in html and "Trials of &lt;b&gt;" in html and "x &amp; y" in html


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="shown"):
        page.render("planner.trials", "trials.html.j2", {**_VIEW, "failed": "", "measures": {}, "trials": []})


def test_a_missing_template_is_an_error() -> None:
    with pytest.raises(jinja2.TemplateNotFound, match="none"):
        page.render("planner", "none.html.j2", {})


def test_a_data_uri_contains_the_bytes_of_the_image() -> None:
    head, _, data = page.data_uri("jpeg", b"\xff\xd8 image").partition(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(data) == b"\xff\xd8 image"
