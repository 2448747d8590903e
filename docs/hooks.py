"""MkDocs hook: generates the API reference and the configuration reference, and adapts links to the site.

Nothing here is imported by the packages. `settings` is also what the tests compare the documentation's keys with.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.loader import FOLDER
from data_collection.collection.config import CollectionRunConfig
from ghvae_core.evaluation.clips import RunEvaluationConfig
from ghvae_core.serving.config import RunServerConfig
from ghvae_core.training.config import TrainingRunConfig
from ghvae_core.training.temporal_distance import TemporalDistanceRunConfig
from planner.config import TaskRunConfig

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "robot_bridge", "data_collection", "ghvae_core", "planner")
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # shown on the site as well

_ROBOTS = {"robot": ("robots/simulation.yaml", "robots/franka_ros.yaml", "robots/franka_direct.yaml")}
_MODELS = {"model": ("models/tiny.yaml", "models/svg_tiny.yaml")}
COMMANDS: dict[str, tuple[type[BaseModel], Mapping[str, tuple[str, ...]]]] = {  # its schema and YAML files
    "`run_collection`": (
        CollectionRunConfig,
        {**_ROBOTS, "collection": ("collection/random.yaml",), "supervision": ("collection/supervision.yaml",)},
    ),
    "`run_finetune`": (
        TrainingRunConfig,
        {
            **_MODELS,
            "training": ("training/tiny.yaml",),
            "objective": ("training/objective.yaml",),
            "data": ("training/data.yaml",),
        },
    ),
    "`run_distance`": (
        TemporalDistanceRunConfig,
        {
            "distance": ("models/distance.yaml",),
            "training": ("training/distance.yaml",),
            "data": ("training/distance_data.yaml",),
        },
    ),
    "`run_evaluation`": (RunEvaluationConfig, {"evaluation": ("evaluation/frames.yaml",)}),
    "`run_server`": (RunServerConfig, {"serving": ("serving/server.yaml",), "predictor": ("serving/predictor.yaml",)}),
    "`run_task`, `run_trials`, `run_goal`, `run_doctor`": (
        TaskRunConfig,
        {
            **_ROBOTS,
            "task": ("tasks/pick_wipe.yaml",),
            "planner": ("planning/solver.yaml",),
            "predictor": ("planning/predictor.yaml",),
            "difference": ("planning/difference.yaml",),
            "policy": ("planning/policy.yaml",),
        },
    ),
}
_MISSING = object()


@dataclass(frozen=True)
class Setting:
    """One configuration key."""

    key: str  # as written after --set
    variant: str  # of sections that have several: the value of its `kind`; else empty
    type: str
    default: str  # as YAML; empty: required
    range: str
    note: str  # the comment at its definition


def settings(schema: type[BaseModel], files: Mapping[str, tuple[str, ...]]) -> Iterator[Setting]:
    """Yield every key of a configuration, section by section."""
    for section, field in schema.model_fields.items():
        variants = _models(field.annotation)
        for model in variants:
            tree = next((tree for name in files.get(section, ()) if (tree := _tree(name)) and _fits(tree, model)), {})
            variant = _variant(model) if len(variants) > 1 else ""
            yield from _settings_of(model, tree, section, variant)


def _settings_of(model: type[BaseModel], tree: Mapping[str, Any], prefix: str, variant: str) -> Iterator[Setting]:
    notes = _notes(model)
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}"
        value = tree.get(name, _MISSING)
        inner = _models(field.annotation)
        if len(inner) == 1 and get_origin(field.annotation) not in {tuple, list}:
            default = _default(field)
            stored = (
                value if isinstance(value, Mapping) else default.model_dump() if isinstance(default, BaseModel) else {}
            )
            yield from _settings_of(inner[0], stored, key, variant)
            if type(None) not in get_args(field.annotation):
                continue
        written = value if value is not _MISSING else _default(field)
        note = field.description or notes.get(name, "")
        yield Setting(key, variant, _type(field.annotation), _yaml(written), _range(field), note)


def _tree(file: str) -> dict[str, Any]:
    tree = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))
    return tree if isinstance(tree, dict) else {}


def _fits(tree: Mapping[str, Any], model: type[BaseModel]) -> bool:
    kind = model.model_fields.get("kind")
    return kind is None or tree.get("kind", kind.default) == kind.default


def _variant(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return str(kind.default) if kind else model.__name__


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _default(field: FieldInfo) -> object:
    if field.is_required():
        return _MISSING
    if field.default_factory_takes_validated_data:
        return "depends on the other keys"
    return field.get_default(call_default_factory=True)


def _yaml(value: object) -> str:
    if value is _MISSING:
        return ""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, default=list if isinstance(plain, set | frozenset | tuple) else str)


def _type(annotation: Any) -> str:
    """Return an annotation in the words of a user."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " or ".join(json.dumps(part) for part in parts)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type(part) for part in parts)
    if origin is tuple:
        inner = [_type(part) for part in parts if part is not Ellipsis]
        return (
            f"list of {inner[0]}" if Ellipsis in parts else f"list of {len(inner)} ({', '.join(dict.fromkeys(inner))})"
        )
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_type(part) for part in parts)}"
    words = {"NoneType": "null", "str": "text", "bool": "true or false", "float": "number", "int": "whole number"}
    name = getattr(annotation, "__name__", str(annotation))
    return words.get(name, name)


def _range(field: FieldInfo) -> str:
    """Return the limits of a value."""
    limits: list[str] = []
    signs = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
    for rule in field.metadata:
        for kind, sign in signs.items():
            if isinstance(rule, kind):
                limits.append(f"{sign} {getattr(rule, kind.__name__.lower()):g}")
        if isinstance(rule, annotated_types.MinLen):
            limits.append(f"length ≥ {rule.min_length}")
        if isinstance(rule, annotated_types.MaxLen):
            limits.append(f"length ≤ {rule.max_length}")
        if isinstance(rule, annotated_types.MultipleOf):
            limits.append(f"multiple of {rule.multiple_of}")
    return ", ".join(limits)


@cache
def _notes(model: type[BaseModel]) -> dict[str, str]:
    """Return the comment at the definition of each field: behind it, or on the lines above it."""
    notes: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not (issubclass(owner, BaseModel) and owner.__module__.partition(".")[0] in PACKAGES):
            continue
        lines, _ = inspect.getsourcelines(owner)
        source = inspect.cleandoc("".join(lines)) if lines[0].startswith(" ") else "".join(lines)
        comments = {
            token.start[0]: (token.string.lstrip("# ").strip(), token.line.strip().startswith("#"))
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                above = node.lineno
                while above - 1 in comments and comments[above - 1][1]:
                    above -= 1
                behind = [comments[line][0] for line in range(above, (node.end_lineno or 0) + 1) if line in comments]
                if behind:
                    notes[node.target.id] = " ".join(behind).removeprefix("noqa")
    return notes


def configuration_page() -> str:
    """Return the configuration reference in Markdown."""
    parts = [
        "# Configuration reference",
        "Every key of every section, as `--set section.key=value` and the YAML files of `configs/` take it. The "
        "default is that of the shipped file where it has one. Origins in the notes: `paper E.1` and `RoboNet` are "
        "published values, `ours` was chosen by this project.",
    ]
    shown: dict[tuple[str, str], list[Setting]] = {}  # by section and variant
    for commands, (schema, files) in COMMANDS.items():
        parts.append(f"## {commands}")
        tables: dict[tuple[str, str], list[Setting]] = {}
        for setting in settings(schema, files):
            if "." in setting.key:
                tables.setdefault((setting.key.split(".")[0], setting.variant), []).append(setting)
        for (section, variant), rows in tables.items():
            if rows == shown.setdefault((section, variant), rows) and rows is not shown[section, variant]:
                parts.append(f"### {section}{f': {variant}' if variant else ''} (as above)")
                continue
            shipped = [name for name in files.get(section, ()) if not variant or _tree(name).get("kind") == variant]
            named = ", ".join(f"`configs/{name}`" for name in shipped)
            parts.append(f"### {section}{f': {variant}' if variant else ''}")
            parts.append(f"File: {named}." if named else "")
            parts.append(
                "\n".join(["| Key | Type | Default | Range | Note |", "|---|---|---|---|---|", *map(_row, rows)])
            )
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else "required"
    cells = [f"`{setting.key}`", setting.type, default, setting.range, setting.note]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def api_pages() -> dict[str, str]:
    """Return a page in Markdown for each package and subpackage, by its place on the site."""
    pages: dict[str, str] = {}
    for package in PACKAGES:
        folders = sorted({path.parent for path in (ROOT / package).rglob("*.py")})
        for folder in folders:
            name = ".".join(folder.relative_to(ROOT).parts)
            modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
            blocks = [f"# {name}", f"::: {name}\n    options:\n      show_root_heading: false\n      members: false"]
            blocks += [f"::: {name}.{module}" for module in modules]
            pages[f"api/{name}.md"] = "\n\n".join(blocks) + "\n"
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation."""
    api = [{Path(place).stem: place} for place in api_pages()]
    assert config.nav is not None  # noqa: S101 - mkdocs.yml has one
    config.nav += [{"API reference": api}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests import this module without MkDocs

    pages = {**api_pages(), "configuration.md": configuration_page()}
    for source, place in ROOT_PAGES.items():
        if (ROOT / source).exists():
            pages[place] = (ROOT / source).read_text(encoding="utf-8")
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Turn links to files outside docs/ into links on the site, or into plain text where there is no such page."""
    above = "../" if page.file.src_uri not in ROOT_PAGES.values() else ""

    def adapt(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not above and target.startswith("docs/"):
            return f"[{text}]({target.removeprefix('docs/')}{anchor})"
        if target.startswith(above) and (place := ROOT_PAGES.get(target.removeprefix(above))):
            return f"[{text}]({place}{anchor})"
        return text if above and target.startswith(above) else match.group()

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", adapt, markdown)
