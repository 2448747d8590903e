"""The configuration of a server, a section for each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from configs.loader import Config, load
from ghvae_core.goal_cost import CostNetworks
from ghvae_core.serving.server import ServingConfig


class InProcessConfig(CostNetworks):
    """How the work is cut up, how exactly it is done, and what is held for costs."""

    # Imagined together; bounds the memory and how late a deadline is noticed; ours.
    chunk: int = Field(default=50, ge=1)
    max_candidates: int = Field(default=1000, ge=1, le=65536)  # in one request; ours
    precision: Literal["float32", "bfloat16"] = "float32"  # of the model's convolutions; ours


class RunServerConfig(Config):
    """All sections that `--set` knows."""

    serving: ServingConfig
    predictor: InProcessConfig


def load_run_server(overrides: Sequence[str]) -> RunServerConfig:
    """Read the files of a server; the overrides decide last.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    return load(RunServerConfig, {"serving": "serving/server.yaml", "predictor": "serving/predictor.yaml"}, overrides)
