"""The configuration of a server, with one section for each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from configs.loader import Config, load
from ghvae_core.goal_cost import CostNetworks
from ghvae_core.serving.server import ServingConfig


class InProcessConfig(CostNetworks):
    """Size of chunks, precision, and the networks for the cost."""

    # Candidates predicted together, halved where memory does not suffice; bounds the delay at a deadline. Raise it on a
    # large GPU; ours.
    chunk: int = Field(default=50, ge=1)
    max_candidates: int = Field(default=1000, ge=1, le=65536)  # in one request; ours
    precision: Literal["float32", "bfloat16"] = "float32"  # of the model's convolutions; ours


class RunServerConfig(Config):
    """The sections of `--set`."""

    serving: ServingConfig
    predictor: InProcessConfig


def load_run_server(overrides: Sequence[str]) -> RunServerConfig:
    """Load the configuration; the overrides take precedence over the files.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    return load(RunServerConfig, {"serving": "serving/server.yaml", "predictor": "serving/predictor.yaml"}, overrides)
