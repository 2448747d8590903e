"""Loads configurations: reads YAML sections and dotted overrides, and validates them strictly.

Each section of a configuration is one YAML file. Its schema is a pydantic model next to the class that it configures,
and holds all defaults.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from configs.command import ReportedError

FOLDER = Path(__file__).parent

_Key = tuple[str | int, ...]


class ConfigError(ReportedError):
    """A configuration that was refused. Nothing was done."""


class Config(BaseModel):
    """Base of all configurations: immutable, no unknown keys, no silent conversions, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    renamed_keys: ClassVar[Mapping[str, str]] = {}  # former key: present key
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # present key: {former value: present value}


class _Source(NamedTuple):
    """Source of a key."""

    where: str  # path of the file, or the override as given
    line: int | None

    def __str__(self) -> str:
        return self.where if self.line is None else f"{self.where}:{self.line}"


class _Yaml(yaml.SafeLoader):
    """Safe YAML loader that reads `1e-4` as a number and `off` as a string, as in YAML 1.2 (PyYAML does not)."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|nan|NaN)$"),
    list("-+0123456789."),
)

_Schema = TypeVar("_Schema", bound=BaseModel)


def load(schema: type[_Schema], sections: Mapping[str, str | Path], overrides: Sequence[str] = ()) -> _Schema:
    """Read one YAML file per section, apply the overrides, and validate the result.

    Args:
        schema: Model of the configuration; each field is a section.
        sections: Section name to YAML file. A relative name that does not exist in the working directory is resolved
            in this package, so `robots/simulation.yaml` works in any directory.
        overrides: `section.key=value`, the value in YAML, as given after `--set`; the last one of a key applies.

    Returns:
        The validated, immutable configuration.

    Raises:
        ConfigError: A missing or unreadable file, a duplicate or unknown key, or a value of the wrong type or range;
            the message names the file, the line, and for an unknown key the nearest known one.
    """
    sources: dict[_Key, _Source] = {}
    tree: dict[str, Any] = {}
    for name, file in sections.items():
        tree[name] = _read(_find(Path(file)), (name,), sources)
    for override in overrides:
        _apply(override, tree, sources)
    try:
        # YAML has no tuples; JSON mode accepts a list for one and is strict otherwise.
        return schema.model_validate_json(_json(tree))
    except ValidationError as error:
        # A default that depends on a refused value is no further error.
        found = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        raise ConfigError("; ".join(_explain(item, schema, sources) for item in found)) from None


def migrate(schema: type[BaseModel], tree: Any) -> Any:
    """Return a stored configuration with the present names of keys and values.

    `load` refuses former names; configurations stored by earlier versions are read through this function.

    Args:
        schema: The model of the configuration.
        tree: Plain values from YAML or JSON. A value that is not a mapping is returned unchanged.
    """
    if not isinstance(tree, Mapping):
        return tree
    keys, values = _renames(schema)
    migrated: dict[str, Any] = {}
    for former, value in tree.items():
        key = keys.get(former, former)
        if isinstance(value, str):
            value = values.get(key, {}).get(value, value)  # noqa: PLW2901
        field = schema.model_fields.get(key)
        migrated[key] = _migrate_field(field, value) if field else value
    return migrated


def former_names(schema: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the first names of their keys, for comparison with hashes stored by earlier versions.

    Args:
        schema: The model of the configuration.
        tree: A dump of the configuration, or a part of one.
    """
    former: dict[str, str] = {}
    for old, new in _renames(schema)[0].items():
        former.setdefault(new, old)
    named: dict[str, Any] = {}
    for key, value in tree.items():
        field = schema.model_fields.get(key)
        inner = _model(field, value) if field else None
        is_nested = inner is not None and isinstance(value, Mapping)
        named[former.get(key, key)] = former_names(inner, value) if inner and is_nested else value
    return named


def to_yaml(config: BaseModel) -> str:
    """Return a configuration, section by section, as YAML text."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _json(tree: object) -> str:
    try:
        return json.dumps(tree, allow_nan=True, default=str)
    except ValueError as error:  # pragma: no cover - YAML cannot build what JSON cannot hold, except cycles
        raise ConfigError(f"the configuration refers to itself: {error}") from None


def _find(file: Path) -> Path:
    for candidate in (file, FOLDER / file):
        if candidate.is_file():
            return candidate
    folder = (FOLDER / file).parent
    if file.is_absolute() or not folder.is_dir():
        raise ConfigError(f"{file}: no such configuration file")
    known = {path.stem: str(path.relative_to(FOLDER)) for path in sorted(folder.glob("*.yaml"))}
    hint = _nearest(str(file), known.values())
    raise ConfigError(f"{file}: no such configuration file; expected a YAML file, or one of {', '.join(known)}{hint}")


def _read(file: Path, prefix: _Key, sources: dict[_Key, _Source]) -> Any:
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Yaml)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: expected a readable YAML file, got: {reason}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}: expected a mapping of keys to values at the top")
    return _build(node, prefix, _Source(str(file), None), sources)


def _build(node: yaml.Node, prefix: _Key, source: _Source, sources: dict[_Key, _Source]) -> Any:
    """Convert a YAML node to plain values; record the source of each key and refuse duplicates."""
    line = node.start_mark.line + 1 if source.line is None else source.line
    sources.setdefault(prefix, _Source(source.where, line))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            place = _Source(source.where, key_node.start_mark.line + 1)
            if key in mapping:
                raise ConfigError(f"{place}: '{key}' is set twice; remove one of the two")
            sources[(*prefix, key)] = place
            mapping[key] = _build(value_node, (*prefix, key), source, sources)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*prefix, index), source, sources) for index, item in enumerate(node.value)]
    loader = _Yaml("")
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, yaml.YAMLError) as error:  # ValueError: an invalid date
        raise ConfigError(f"{source.where}:{line}: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _apply(override: str, tree: dict[str, Any], sources: dict[_Key, _Source]) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys) or len(keys) < 2:
        raise ConfigError(f"--set {override}: expected section.key=value, as in planner.n_candidates=400")
    if keys[0] not in tree:
        raise ConfigError(f"--set {override}: unknown section '{keys[0]}'{_nearest(keys[0], tree)}")
    try:
        value = yaml.load(text, Loader=_Yaml)  # noqa: S506 - _Yaml is a SafeLoader
    except (ValueError, yaml.YAMLError):
        raise ConfigError(f"--set {override}: the value is not valid YAML") from None
    place: Any = tree
    for depth, key in enumerate(keys[:-1]):
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: '{'.'.join(keys[: depth + 1])}' is a value and has no keys")
    place[keys[-1]] = value
    sources[tuple(keys)] = _Source(f"--set {override}", None)


def _explain(item: ErrorDetails, schema: type[BaseModel], sources: dict[_Key, _Source]) -> str:
    """Return a validation error as one line with its source, and with the present or the nearest key."""
    place, owner = _written(item["loc"], schema)
    dotted = ".".join(str(part) for part in place)
    if item["type"] == "extra_forbidden":
        known = owner.model_fields if owner else ()
        present = _renames(owner)[0].get(str(place[-1]))
        if present is not None:
            return f"{_origin(place, sources)}: '{dotted}' is now '{'.'.join(map(str, (*place[:-1], present)))}'"
        return f"{_origin(place, sources)}: unknown key '{dotted}'{_nearest(str(place[-1]), known)}"
    if item["type"] == "missing":
        return f"{_origin(place[:-1], sources)}: '{dotted}' is missing"
    if item["type"].startswith("union_tag"):  # the discriminator of a union of models
        key = item["ctx"]["discriminator"].strip("'")
        return f"{_origin(place, sources)}: '{dotted}.{key}': expected {_tags(schema, place)}, got {_tag(item)}"
    got = str(item["input"])
    present = _renames(owner)[1].get(str(place[-1]), {}).get(got)
    if present is not None:
        return f"{_origin(place, sources)}: {dotted}: '{got}' is now '{present}'"
    what = item["msg"].removeprefix("Value error, ")
    overridden = [keys for keys, source in sources.items() if source.line is None and keys[: len(place)] == place]
    origin = _origin(overridden[-1] if overridden else place, sources)
    return f"{origin}: {dotted}: {what}" + ("" if ", got " in what else f", got {got[:80]}")


def _renames(schema: type[BaseModel] | None) -> tuple[Mapping[str, str], Mapping[str, Mapping[str, str]]]:
    """Return the former keys and values of a model."""
    if schema is None or not issubclass(schema, Config):
        return {}, {}
    return schema.renamed_keys, schema.renamed_values


def _migrate_field(field: FieldInfo, value: Any) -> Any:
    """Return the stored value of a field under present names: a model, a list or a mapping of models, or a value."""
    inner = _model(field, value)
    if inner is None:
        return value
    if isinstance(value, list):
        return [migrate(inner, item) for item in value]
    if get_origin(field.annotation) is dict and isinstance(value, Mapping):
        return {key: migrate(inner, item) for key, item in value.items()}
    return migrate(inner, value)


def _model(field: FieldInfo, value: object) -> type[BaseModel] | None:
    """Return the model that a stored value, or each item of a list or mapping, follows; None for plain values."""
    models = _models_in(field.annotation)
    if isinstance(field.discriminator, str) and isinstance(value, Mapping):
        name = field.discriminator
        models = [model for model in models if model.model_fields[name].default == value.get(name)]
    return models[0] if models else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(schema: type[BaseModel], place: _Key) -> str:
    """Return the allowed values of the discriminator of a section, as text."""
    field = schema.model_fields[str(place[-1])]
    kinds = [model.model_fields[str(field.discriminator)].default for model in get_args(field.annotation)]
    return " or ".join(kinds)


def _tag(item: ErrorDetails) -> str:
    return str(item["ctx"].get("tag", "none"))


def _origin(place: _Key, sources: dict[_Key, _Source]) -> str:
    while place and place not in sources:
        place = place[:-1]
    return str(sources.get(place, "configuration"))


def _written(loc: Iterable[str | int], schema: type[BaseModel]) -> tuple[_Key, type[BaseModel] | None]:
    """Return the keys of an error as in the file, and the model of the last key, if any.

    For a union of models, pydantic adds the discriminator of the chosen model after the key.
    """
    place: list[str | int] = []
    owner: type[BaseModel] | None = None
    inner: type[BaseModel] | None = schema
    parts = iter(loc)
    for part in parts:
        place.append(part)
        owner, field = inner, inner.model_fields.get(str(part)) if inner else None
        annotation = field.annotation if field else None
        if field is not None and isinstance(field.discriminator, str):
            kind, name = next(parts, None), field.discriminator
            annotation = next((m for m in get_args(annotation) if m.model_fields[name].default == kind), None)
        inner = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return tuple(place), owner


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean '{match[0]}'?" if match else ""
