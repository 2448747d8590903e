"""Files of checkpoints: folders with a manifest of hashes, tensors, and versioned configurations.

A safetensors file with a flipped bit loads without an error, so all hashes are checked before anything is used. No
pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor

from configs.command import ReportedError
from data_collection import atomic_io

MANIFEST = "MANIFEST.json"
CURRENT = 6  # schema version of the configuration
_VERSION = "schema_version"


class CheckpointError(ReportedError):
    """A checkpoint, or the state of a training run, cannot be used. Nothing was loaded or changed."""

    exit_code: ClassVar[int] = 2


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written. An existing one is kept."""

    exit_code: ClassVar[int] = 1


def write_folder(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, object]) -> None:
    """Write files and a manifest of their sha256 as one folder, completely or not at all.

    Args:
        folder: Replaced if it exists.
        files: Content by name.
        facts: Further entries of the manifest.

    Raises:
        CheckpointWriteError: Writing failed; an existing folder is kept.
    """
    manifest = {"version": 1, "files": {name: sha256(data) for name, data in files.items()}, **facts}
    text = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
    try:
        atomic_io.write_folder(folder, {**files, MANIFEST: text})
    except OSError as error:
        raise CheckpointWriteError(
            f"{folder}: could not be written ({error.strerror}); an existing folder is kept"
        ) from None


def read_manifest(folder: Path) -> tuple[dict[str, bytes], dict[str, object], str]:
    """Read a folder of `write_folder` after checking the hash of every file.

    Returns:
        Content by name, the manifest, and the sha256 of the manifest, which identifies the content.

    Raises:
        CheckpointError: A file is missing, added or changed.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        hashes = dict(manifest["files"])
        version = manifest["version"]
    except OSError as error:
        raise CheckpointError(f"{folder}: expected a folder with {MANIFEST}, got: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder / MANIFEST}: not a manifest; the folder is damaged, use another copy") from None
    if version != 1:
        raise CheckpointError(
            f"{folder}: expected manifest version 1, got {version}; use a newer version of this program"
        )
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(hashes):
        missing, added = sorted(set(hashes) - present), sorted(present - set(hashes))
        raise CheckpointError(f"{folder}: files missing {missing}, not in the manifest {added}; use another copy")
    files = {}
    for name, expected in hashes.items():
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read: {error.strerror}") from None
        if sha256(files[name]) != expected:
            raise CheckpointError(
                f"{folder / name}: its sha256 differs from the manifest; it is damaged, use another copy"
            )
    return files, manifest, sha256(text)


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        CheckpointError: Not a safetensors file, or a value is not finite; `name` is used in the message.
    """
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{name}: expected a safetensors file, got: {error}") from None
    except KeyError as error:  # a type that safetensors allows and torch lacks
        raise CheckpointError(f"{name}: expected a number type of torch, got {error}") from None
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name}: {key} holds NaN or infinity; use another copy")
    return tensors


def pack_config(config: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file of a configuration, with the current schema version."""
    return json.dumps({_VERSION: CURRENT, **config}, indent=2).encode() + b"\n"


def unpack_config(data: bytes, path: Path) -> str:
    """Return the JSON text of a configuration file, migrated to the current schema version.

    Raises:
        CheckpointError: Not a configuration, or of a newer version; `path` is used in the message.
    """
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):  # RecursionError: deeply nested brackets
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object; use another copy")
    version = config.pop(_VERSION, 1)
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: {_VERSION}: expected a whole number from 1, got {version!r:.40}")
    if version > CURRENT:
        raise CheckpointError(
            f"{path}: expected {_VERSION} {CURRENT} or less, got {version}; use a newer version of this program"
        )
    steps = {1: _from_1_to_2, 2: _from_2_to_3, 3: _from_3_to_4, 5: _from_5_to_6}  # version 5 only added settings
    for former in range(version, CURRENT):
        config = steps.get(former, dict)(config)
    return json.dumps(config)


def sha256(data: bytes) -> str:
    """Return the sha256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _from_1_to_2(config: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(config.get("model"), dict):
        return config  # refused when all fields are validated
    model = {"kind": "ghvae", **config["model"]}
    if model.pop("action_conditioned", True) is False:
        model |= {"action_dim": 0, "action_scale": []}
    return {**config, "model": model}


def _from_2_to_3(config: dict[str, Any]) -> dict[str, Any]:
    names = {"usual_error": "val_rmse_p95", "answer": "self_test_output"}
    config = {names.get(name, name): value for name, value in config.items()}
    if isinstance(config.get("provenance"), dict):
        names = {"validation_share": "validation_fraction", "init_left": "init_unused"}
        provenance = {names.get(name, name): value for name, value in config["provenance"].items()}
        if provenance.get("stage") == "polish":
            provenance["stage"] = "prior_finetune"
        config["provenance"] = provenance
    return config


def _from_3_to_4(config: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(config.get("model"), dict):
        return config
    added = {"n_context": config.get("n_context", 2)}
    if config["model"].get("kind") == "ghvae":
        added["copies"] = 0
    return {**config, "model": {**added, **config["model"]}}


def _from_5_to_6(config: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(config.get("model"), dict) or config["model"].get("kind") != "ghvae":
        return config
    return {**config, "model": {"prior_frames": "all", **config["model"]}}
