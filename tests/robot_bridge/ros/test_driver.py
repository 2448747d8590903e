"""The ROS master: network, restart and timeout."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

from configs.loader import FOLDER
from robot_bridge.ros import driver as module
from robot_bridge.ros.driver import Master, MasterError
from tests.patience import patience
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

ROOT = FOLDER.parent
_PROGRAM = """
import logging, os, sys, psutil
from robot_bridge.ros.driver import Master
logging.basicConfig(level=logging.WARNING, format="%(message)s")
Master("test", 5.0)
logging.getLogger("planner").warning("shown")
logging.getLogger("planner").info("hidden")
print({each.laddr.ip for each in psutil.Process().net_connections() if each.status == "LISTEN"}, flush=True)
os._exit(0)
"""


def test_ros_listens_on_loopback_and_keeps_log_handlers(master: Rig) -> None:
    places = {name: value for name, value in os.environ.items() if name not in {"ROS_IP", "ROS_HOSTNAME"}}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=ROOT,
        env=places,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=True,
    )
    assert done.stdout == "{'127.0.0.1'}\n"
    assert done.stderr == "shown\n"


def test_remote_master_needs_ros_ip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_IP", raising=False)
    monkeypatch.delenv("ROS_HOSTNAME", raising=False)
    with pytest.raises(MasterError, match="expected ROS_IP for a master on another machine"):
        module._check_network("http://robot-pc:11311")
    monkeypatch.setenv("ROS_IP", "192.168.1.7")
    module._check_network("http://robot-pc:11311")
    assert os.environ["ROS_IP"] == "192.168.1.7"


def test_restarted_master_is_detected(master: Rig) -> None:
    connected = Master("test_master", 5.0)
    connected.check()
    connected._pid -= 1
    with pytest.raises(MasterError, match="the ROS master was restarted; restart the driver, then this command"):
        connected.check()


def test_suspended_master_times_out(master: Rig) -> None:
    connected = Master("test_master", 0.5)
    process = psutil.Process(master.master.pid)
    process.suspend()
    try:
        end_s = time.monotonic() + patience(10)
        while process.status() != psutil.STATUS_STOPPED:  # the signal takes effect later
            assert time.monotonic() < end_s
            time.sleep(0.01)
        with pytest.raises(MasterError, match="expected a ROS master, got no answer"):
            connected.check()
    finally:
        process.resume()
    connected.check()
