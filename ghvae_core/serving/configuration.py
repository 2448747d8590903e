"""The configuration of a server, a section for each part."""

from __future__ import annotations

from collections.abc import Sequence

from configs.loader import Config, load
from ghvae_core.serving.in_process import InProcessConfig
from ghvae_core.serving.server import ServingConfig


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
