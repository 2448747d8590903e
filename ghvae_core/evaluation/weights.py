"""Published weights as they stand in a file, known by their values: a metric with others needs another name."""

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
    """Return the sha256 of the names and float32 values of weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, title: str, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file that holds exactly the published weights.

    Args:
        path: The file.
        title: What the weights are called in messages.
        sha256: Their `fingerprint`.

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
            " values; give another copy, or remove this one where it was fetched, and it is fetched anew"
        )
    return tensors
