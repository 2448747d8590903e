"""One simulated arm for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.patience import keep_real_time
from tests.robot_bridge.libfranka.rig import INSTALL, INTERPRETER, Rig


@pytest.fixture(scope="session")
def _rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    pytest.importorskip("franky", reason="franky is not installed; pip install '.[franky]' installs it")
    if not os.environ.get(INTERPRETER):
        pytest.skip(INSTALL)
    keep_real_time()
    rig = Rig(tmp_path_factory.mktemp("libfranka"))
    yield rig
    print(rig.close())


@pytest.fixture
def rig(_rig: Rig) -> Rig:
    """An arm without faults."""
    _rig.fault("clear")
    return _rig
