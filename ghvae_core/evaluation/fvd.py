"""FVD (Unterthiner et al. 2018): the Frechet distance between I3D features of real and predicted videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.evaluation.statistics import resample
from ghvae_core.evaluation.weights import read_weights

FVD_CONVENTION = (
    "Frechet distance of Gaussians (unbiased covariance) over I3D Kinetics-400 logits, mean over time; frames resized"
    " to 224x224 (bilinear, corners not aligned), [-1, 1]; one set against one set, one prediction a video"
)
N_RESAMPLES = 100  # of the bootstrap; ours: its standard error is then known to about 7 %
TITLE = "I3D Kinetics-400 RGB"
# Of the published weights, by `fingerprint`.
WEIGHTS_SHA256 = "5da8b7043eef275718d1cc026ac0a111ad9d68c9c04d336c57e6f9b9c940aca7"

N_LOGITS = 400  # classes of Kinetics-400
SIDE_PX = 224  # the network's own; Carreira & Zisserman 2017
LEAST_FRAMES = 10  # fewer leave nothing, or next to nothing, after three halvings in time and a pooling over two

_EPSILON = 1e-3  # of the batch normalisation; TensorFlow's, not PyTorch's 1e-5
# Widths of each inception module: 1x1; 1x1 then 3x3; 1x1 then 3x3; pooling then 1x1. Carreira & Zisserman 2017, fig. 3.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Poolings before layers: kernel and stride over time, height and width.
_POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}

_Triple = tuple[int, int, int]


class I3d(nn.Module):
    """The network with its published weights, frozen; batch statistics are folded into the convolutions.

    Args:
        weights: A safetensors file keyed as the published checkpoint, kernels in torch's order.

    Raises:
        MetricError: The file cannot be read, or holds other weights than the published ones: a result with
            another network is not FVD.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": _Unit(3, 64, 7, stride=2),
            "Conv3d_2b_1x1": _Unit(64, 64, 1),
            "Conv3d_2c_3x3": _Unit(64, 192, 3),
        }
        channels = 192
        for name, widths in _MIXED.items():
            layers[name] = _Mixed(channels, widths)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.layers = nn.ModuleDict(layers)
        self.logits = nn.Conv3d(channels, N_LOGITS, 1)
        self.load_state_dict(_fold(read_weights(weights, TITLE, WEIGHTS_SHA256)))
        self.requires_grad_(False).eval()

    def forward(self, videos: Tensor) -> Tensor:
        """Return the class scores of each video.

        Args:
            videos: (B, T, 3, H, W) in [0, 1], T at least `LEAST_FRAMES`; resized to 224x224 (bilinear, corners not
                aligned, no smoothing) and scaled to [-1, 1] here.

        Returns:
            (B, 400) float32, before the softmax, the mean over time.

        Raises:
            MetricError: Not videos, or too short ones.
        """
        if videos.ndim != 5 or videos.shape[2] != 3 or 0 in videos.shape:
            raise MetricError(f"expected videos (B, T, 3, H, W), got {tuple(videos.shape)}")
        frames = videos.float().flatten(0, 1)
        if frames.shape[-2:] != (SIDE_PX, SIDE_PX):
            frames = functional.interpolate(frames, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
        return self.scores(frames.view(*videos.shape[:3], SIDE_PX, SIDE_PX).transpose(1, 2) * 2 - 1)

    def scores(self, h: Tensor) -> Tensor:
        """Return the class scores (B, 400) of the network's input: (B, 3, T, 224, 224), usually in [-1, 1].

        Raises:
            MetricError: Too few frames.
        """
        if h.shape[2] < LEAST_FRAMES:
            raise MetricError(f"expected videos of at least {LEAST_FRAMES} frames for I3D, got {h.shape[2]}")
        for name, layer in self.layers.items():
            if name in _POOLS:
                h = _pool(h, *_POOLS[name])
            h = layer(h)
        h = functional.avg_pool3d(h, (2, 7, 7), stride=1)
        scores: Tensor = self.logits(h).mean(dim=(2, 3, 4))
        return scores


class _Unit(nn.Module):
    """A convolution with its batch normalisation folded in, and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride)

    def forward(self, h: Tensor) -> Tensor:
        return functional.relu(self.conv(functional.pad(h, _same(h, self.kernel, self.stride))), inplace=True)


class _Mixed(nn.Module):
    """An inception module: four branches over the same features, concatenated."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b_in, b, c_in, c, d = widths
        self.branches = nn.ModuleList(
            [
                nn.Sequential(_Unit(inputs, a, 1)),
                nn.Sequential(_Unit(inputs, b_in, 1), _Unit(b_in, b, 3)),
                nn.Sequential(_Unit(inputs, c_in, 1), _Unit(c_in, c, 3)),
                nn.Sequential(_Unit(inputs, d, 1)),
            ]
        )

    def forward(self, h: Tensor) -> Tensor:
        pooled = _pool(h, (3, 3, 3), (1, 1, 1))
        return torch.cat([branch(pooled if i == 3 else h) for i, branch in enumerate(self.branches)], dim=1)


def _pool(h: Tensor, kernel: _Triple, stride: _Triple) -> Tensor:
    padded = functional.pad(h, _same(h, kernel, stride), value=-torch.inf)
    return functional.max_pool3d(padded, kernel, stride)


def _same(h: Tensor, kernel: _Triple, stride: _Triple) -> list[int]:
    """Return TensorFlow's 'SAME' padding in `functional.pad`'s order; an odd remainder goes to the end."""
    padding: list[int] = []
    for size, k, s in zip(h.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding += [total // 2, total - total // 2]
    return padding


def _fold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of `I3d`: convolution and normalisation made one, (w x - mean) / std + bias."""
    state = {
        "logits.weight": tensors["Logits/Conv3d_0c_1x1/kernel"],
        "logits.bias": tensors["Logits/Conv3d_0c_1x1/bias"],
    }
    for name in tensors:
        layer, part = name.rsplit("/", 1)
        if part != "mean":
            continue
        scale = (tensors[f"{layer}/var"] + _EPSILON).rsqrt()
        place = _place(layer)
        state[f"{place}.conv.weight"] = tensors[f"{layer}/kernel"] * scale[:, None, None, None, None]
        state[f"{place}.conv.bias"] = tensors[f"{layer}/bias"] - tensors[name] * scale
    return state


def _place(layer: str) -> str:
    """Return the name of a published layer, such as Mixed_3b/Branch_1/Conv3d_0b_3x3, in `I3d`."""
    first, *inner = layer.split("/")
    if not inner:
        return f"layers.{first}"
    branch, unit = inner
    second = unit == "Conv3d_0b_3x3"  # the pooling branch's only unit is called 0b, too
    return f"layers.{first}.branches.{branch.removeprefix('Branch_')}.{int(second)}"


def check_length(n_frames: int) -> None:
    """Refuse videos that are too short for I3D, before any is predicted.

    Raises:
        MetricError: They are too short. Repeating frames would make the result incomparable.
    """
    if n_frames < LEAST_FRAMES:
        raise MetricError(
            f"--fvd: expected videos of at least {LEAST_FRAMES} frames, context included, got {n_frames};"
            " raise evaluation.n_predicted, or leave FVD out"
        )


def frechet_distance(real: NDArray[np.floating], fake: NDArray[np.floating]) -> float:
    """Return the squared Frechet distance between Gaussians fitted to two sets of features.

    With covariances A'A and B'B the trace of the square root of their product is the sum of the singular values of
    AB', so that no matrix root is needed, also with fewer videos than dimensions.

    Args:
        real: (N, D), N at least 2.
        fake: (M, D), M at least 2.

    Returns:
        At least 0; 0 for a set and itself, to rounding.

    Raises:
        MetricError: Too few rows, other dimensions, or NaN.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise MetricError(f"expected features (N, D) of at least 2 videos a set, got {real.shape} and {fake.shape}")
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise MetricError("expected finite features for the Frechet distance, got NaN or infinity")
    (mean_r, root_r), (mean_f, root_f) = _gaussian(real), _gaussian(fake)
    shared = np.linalg.svd(root_r @ root_f.T, compute_uv=False).sum()
    distance = ((mean_r - mean_f) ** 2).sum() + (root_r**2).sum() + (root_f**2).sum() - 2 * shared
    return float(max(distance, 0.0))


def bootstrap_error(
    real: NDArray[np.floating], fake: NDArray[np.floating], groups: NDArray[np.int64], rng: np.random.Generator
) -> float:
    """Return the standard error of the distance: its variation over bootstrap samples of episodes.

    Args:
        real: (N, D).
        fake: (N, D), row i predicted from the context of real video i; both are drawn together.
        groups: (N,) the number of each video's episode.
        rng: Draws the episodes.
    """
    samples = (resample(groups, rng) for _ in range(N_RESAMPLES))
    return float(np.std([frechet_distance(real[rows], fake[rows]) for rows in samples], ddof=1))


def _gaussian(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (D,) and a root R (at most D rows, D) of the unbiased covariance R'R."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    centered = (features - mean) / (len(features) - 1) ** 0.5
    if len(centered) <= centered.shape[1]:
        return mean, centered
    return mean, np.linalg.qr(centered).R
