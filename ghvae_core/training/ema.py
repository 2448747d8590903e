"""The moving average of weights in training: smoother than the weights of any one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WARM_UP = 10  # the average of the first steps is a plain one, which forgets the start; as in TensorFlow's


class Ema:
    """Averages over the steps of one stage."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        """Start at the parameters as they are; `decay` 0 keeps nothing."""
        self._parameters, self._decay = list(parameters), decay
        self.averages = [parameter.detach().clone() for parameter in parameters] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after a step, counted from 0."""
        decay = min(self._decay, (1 + step) / (_WARM_UP + step))
        for average, parameter in zip(self.averages, self._parameters, strict=False):
            average.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averages in the place of the parameters."""
        for average, parameter in zip(self.averages, self._parameters, strict=False):
            parameter.copy_(average)
