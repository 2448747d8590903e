"""Published weights of metrics, identified by their values: other weights would define another metric."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ghvae_core.evaluation.metrics import MetricError


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the names and float32 values of weights, independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, title: str, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file that holds exactly the published weights.

    Args:
        path: The file.
        title: Name of the weights in messages.
        sha256: The expected `fingerprint`.

    Raises:
        MetricError: The file cannot be read, or holds other weights than the published ones.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MetricError(f"{path}: expected a safetensors file of {title} weights, got: {error}") from None
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()) or fingerprint(tensors) != sha256:
        raise MetricError(
            f"{path}: expected the published {title} weights, got {len(tensors)} tensors of other names or"
            " values; give another copy, or remove this one if it was downloaded, and it is downloaded again"
        )
    return tensors
