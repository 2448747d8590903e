"""Simulated robots for tests."""

from __future__ import annotations

from typing import Any

from configs.loader import Config, load
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.franka import SimulatedFranka


class _Sections(Config):
    robot: SimulationConfig


def config(**changes: object) -> SimulationConfig:
    """Return the shipped configuration with some keys changed; renders by ray casting, which works everywhere."""
    shipped = load(_Sections, {"robot": "robots/simulation.yaml"}).robot
    merged: dict[str, Any] = {**shipped.model_dump(), "renderer": "ray", **changes}
    return SimulationConfig.model_validate(merged)


def franka(**changes: object) -> SimulatedFranka:
    """Return a simulated robot of `config`."""
    return SimulatedFranka(config(**changes))
