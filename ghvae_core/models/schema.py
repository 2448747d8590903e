"""The versions of a checkpoint's configuration, and one pure step from each to the next.

1: a GHVAE alone, without a version number; `action_conditioned: false` meant the action-free mode.
2: the model says its kind, and an action-free one has `action_dim: 0`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghvae_core.models.checkpoint_files import CheckpointError

CURRENT = 2

_VERSION = "schema_version"


def pack_config(config: Mapping[str, Any]) -> bytes:
    """Return a configuration of the current version as the bytes of its file."""
    return json.dumps({_VERSION: CURRENT, **config}, indent=2).encode() + b"\n"


def unpack_config(data: bytes, path: Path) -> str:
    """Return the JSON text of a configuration file, brought to the current version.

    Raises:
        CheckpointError: It is no configuration, or one that a newer program wrote; `path` goes into the message.
    """
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):  # RecursionError: brackets within brackets
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object; use another copy")
    version = config.pop(_VERSION, 1)
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: {_VERSION}: expected a whole number from 1, got {version!r:.40}")
    if version > CURRENT:
        raise CheckpointError(f"{path}: expected {_VERSION} {CURRENT} or less, got {version}; it needs a newer program")
    for step in (_from_1_to_2,)[version - 1 :]:
        config = step(config)
    return json.dumps(config)


def _from_1_to_2(config: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(config.get("model"), dict):
        return config  # refused for it where all fields are checked
    model = {"kind": "ghvae", **config["model"]}
    if model.pop("action_conditioned", True) is False:
        model |= {"action_dim": 0, "action_scale": []}
    return {**config, "model": model}
