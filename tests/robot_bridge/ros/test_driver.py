"""Joining a master: where ROS listens, and a master that is gone."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

from configs.loader import FOLDER
from robot_bridge.ros import driver as module
from robot_bridge.ros.driver import Master, MasterError
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

ROOT = FOLDER.parent
_JOIN = """
import logging, os, sys, psutil
from robot_bridge.ros.driver import Master
logging.basicConfig(level=logging.WARNING, format="%(message)s")
Master("test", 5.0)
logging.getLogger("planner").warning("still heard")
logging.getLogger("planner").info("not heard")
print({each.laddr.ip for each in psutil.Process().net_connections() if each.status == "LISTEN"}, flush=True)
os._exit(0)
"""


def test_it_listens_on_this_machine_alone_and_leaves_the_log_to_people(master: Rig) -> None:
    places = {name: value for name, value in os.environ.items() if name not in {"ROS_IP", "ROS_HOSTNAME"}}
    done = subprocess.run(
        [sys.executable, "-c", _JOIN], cwd=ROOT, env=places, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{'127.0.0.1'}\n"
    assert done.stderr == "still heard\n"


def test_a_master_elsewhere_needs_a_chosen_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_IP", raising=False)
    monkeypatch.delenv("ROS_HOSTNAME", raising=False)
    with pytest.raises(MasterError, match="expected ROS_IP to say on which network to listen"):
        module._check_network("http://robot-pc:11311")
    monkeypatch.setenv("ROS_IP", "192.168.1.7")
    module._check_network("http://robot-pc:11311")
    assert os.environ["ROS_IP"] == "192.168.1.7"


def test_a_master_that_was_restarted_is_noticed(master: Rig) -> None:
    here = Master("test_master", 5.0)
    here.check()
    here._pid -= 1
    with pytest.raises(MasterError, match="the ROS master was restarted; restart the driver, then this command"):
        here.check()


def test_a_master_that_hangs_is_given_up(master: Rig) -> None:
    here = Master("test_master", 0.5)
    process = psutil.Process(master.master.pid)
    process.suspend()
    try:
        with pytest.raises(MasterError, match="expected a ROS master, got no answer"):
            here.check()
    finally:
        process.resume()
    here.check()
