"""Configurations of every old version, as files that were really written, are brought to the current one."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ghvae_core.models import schema
from ghvae_core.models.checkpoint import CheckpointInfo
from ghvae_core.models.checkpoint_files import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "config_schema_1.json"
PATH = Path("somewhere/config.json")


def _old() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(GOLDEN.read_bytes())
    return config


def _read(config: object) -> CheckpointInfo:
    return CheckpointInfo.model_validate_json(schema.unpack_config(json.dumps(config).encode(), PATH))


def test_what_is_packed_is_unpacked() -> None:
    info = _read(_old())
    packed = schema.pack_config(info.model_dump(mode="json"))
    assert json.loads(packed)["schema_version"] == schema.CURRENT
    assert CheckpointInfo.model_validate_json(schema.unpack_config(packed, PATH)) == info


def test_version_1_becomes_a_ghvae_with_everything_it_said() -> None:
    old = _old()
    dumped = _read(old).model_dump(mode="json")
    model = old.pop("model")
    assert {name: dumped[name] for name in old} == old
    assert model.pop("action_conditioned") is True
    assert dumped["model"] == {**model, "kind": "ghvae"}
    assert (dumped["workspace_m"], dumped["camera"]) == (None, None)


def test_version_1_in_action_free_mode_has_actions_of_no_numbers() -> None:
    old = _old()
    old["model"]["action_conditioned"] = False
    model = _read(old).model
    assert (model.action_dim, model.action_scale) == (0, ())


def test_a_step_leaves_its_input_as_it_was() -> None:
    old = _old()
    before = deepcopy(old)
    schema._from_1_to_2(old)
    assert old == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected a JSON object"),
        (b"[1]", "expected a JSON object"),
        (b"\xff", "expected a JSON object"),
        (b"[" * 100_000, "expected a JSON object"),
        (b'{"schema_version": 3}', "expected schema_version 2 or less, got 3; it needs a newer program"),
        (b'{"schema_version": 0}', "schema_version: expected a whole number from 1, got 0"),
        (b'{"schema_version": true}', "schema_version: expected a whole number from 1, got True"),
        (b'{"schema_version": "2"}', "schema_version: expected a whole number from 1, got '2'"),
    ],
)
def test_what_is_no_configuration_of_ours_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"somewhere/config\.json: {words}"):
        schema.unpack_config(data, PATH)


@pytest.mark.parametrize("config", [{}, {"model": 3}, {"model": {}}, {"model": {"action_conditioned": 1}}])
def test_version_1_without_a_model_is_refused_where_fields_are_checked(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model"):
        _read(config)
