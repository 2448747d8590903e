"""LPIPS v0.1 with the AlexNet trunk (Zhang et al. 2018): a learned distance between frames, lower is closer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ghvae_core.evaluation.metrics import check_videos
from ghvae_core.evaluation.weights import read_weights

LPIPS_CONVENTION = "v0.1, AlexNet, frames scaled to [-1, 1]"
# Of the published weights, by `fingerprint`.
WEIGHTS_SHA256 = "007c110a0dcbff8843dfa68963415f6d8deed560e66a3ea549470afea73d7f3f"

CONVOLUTIONS = (0, 3, 6, 8, 10)  # their places in torchvision's alexnet().features
_SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean on a [-1, 1] scale; LPIPS v0.1
_SCALE = (0.458, 0.448, 0.450)  # ImageNet's standard deviation on a [-1, 1] scale; LPIPS v0.1
_EPSILON = 1e-10  # LPIPS v0.1
_LEAST_PX = 31  # smaller frames leave nothing after the second pooling


class Lpips(nn.Module):
    """The metric with its published weights, frozen.

    Args:
        weights: A safetensors file keyed as torchvision's `alexnet().features` and the linear heads of pip's `lpips`.

    Raises:
        MetricError: The file cannot be read, or holds other weights than the published ones: a result with
            another network is not LPIPS.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        self.heads = nn.ModuleList(nn.Conv2d(n, 1, 1, bias=False) for n in (64, 192, 384, 256, 256))
        self.load_state_dict(_rename(read_weights(weights, "LPIPS v0.1 AlexNet", WEIGHTS_SHA256)))
        self.requires_grad_(False)

    def forward(self, real: Tensor, predicted: Tensor) -> Tensor:
        """Return the distance of each pair of frames.

        Args:
            real: (B, T, 3, H, W) in [0, 1], H and W at least 31.
            predicted: The same shape and range.

        Returns:
            (B, T) float32, 0 for identical frames. NaN where a frame holds one.

        Raises:
            MetricError: The shapes differ, or are not those of videos of that size.
        """
        check_videos(real, predicted, least_px=_LEAST_PX)
        pairs = torch.stack([real, predicted]).float().flatten(0, 2)  # (2*B*T, 3, H, W)
        shift, scale = (pairs.new_tensor(value)[:, None, None] for value in (_SHIFT, _SCALE))
        h = (pairs * 2 - 1 - shift) / scale
        distance = pairs.new_zeros(len(pairs) // 2)
        for level, (convolution, head) in enumerate(zip(self.convolutions, self.heads, strict=True)):
            if level in (1, 2):
                h = functional.max_pool2d(h, 3, stride=2)
            h = functional.relu(convolution(h))
            unit = h / (h.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)
            of_real, of_predicted = unit.chunk(2)
            distance = distance + head((of_real - of_predicted).square()).mean(dim=(1, 2, 3))
        return distance.view(real.shape[:2])


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {f"heads.{level}.weight": tensors[f"lin{level}.model.1.weight"] for level in range(len(CONVOLUTIONS))}
    for level, place in enumerate(CONVOLUTIONS):
        for part in ("weight", "bias"):
            state[f"convolutions.{level}.{part}"] = tensors[f"features.{place}.{part}"]
    return state
