"""One ROS master for all tests of this folder: a process can connect to only one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.patience import keep_real_time
from tests.robot_bridge.ros.rig import Rig


@pytest.fixture(scope="session")
def _rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    keep_real_time()
    rig = Rig(tmp_path_factory.mktemp("ros"))
    yield rig
    rig.leave()
    rig.close()


@pytest.fixture
def rig(_rig: Rig) -> Rig:
    """A master with a driver without faults."""
    if _rig.is_down():
        _rig.start_driver()
    _rig.fault("clear")
    return _rig


@pytest.fixture
def master(_rig: Rig) -> Rig:
    """A master without a driver."""
    _rig.stop_driver()
    return _rig
