"""A real ROS master and the simulated driver, each in a process of its own, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.patience import patience

ROOT = Path(__file__).resolve().parents[3]
_UP_S = 60.0  # for a process to be ready on a busy machine
_DOWN_S = 15.0
_N_PORTS = 5  # tried, as another process may take a free port first


class Rig:
    """A master, and a driver that may be replaced."""

    def __init__(self, folder: Path) -> None:
        """Start a master on a free port of this machine, and point this process's ROS at it."""
        self.folder = folder
        os.environ.update({"ROS_IP": "127.0.0.1", "ROS_HOME": str(folder), "ROS_LOG_DIR": str(folder)})
        self._driver: subprocess.Popen[str] | None = None
        self.log = folder / "driver.jsonl"
        for _ in range(_N_PORTS):
            self._port = _free_port()
            self.uri = f"http://127.0.0.1:{self._port}"
            os.environ["ROS_MASTER_URI"] = self.uri
            if self._start_master():
                return
        raise AssertionError("the ROS master did not start")

    @property
    def driver(self) -> subprocess.Popen[str]:
        """The driver's process."""
        assert self._driver is not None
        return self._driver

    def _start_master(self) -> bool:
        """Start the master; return whether it runs."""
        command = ["/usr/bin/rosmaster", "--core", "-p", str(self._port)]
        self.master = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + patience(_UP_S)
        while self.master.poll() is None and time.monotonic() < deadline_s:
            if self._answers():
                return True
            time.sleep(0.05)
        self.master.kill()
        self.master.wait()
        return False

    def restart_master(self) -> None:
        """Kill the master, and start another on the same port."""
        self.master.kill()
        self.master.wait()
        assert self._start_master(), "the ROS master did not start again"

    def start_driver(self, *arguments: str) -> None:
        """Start the driver, in place of the one that runs, and wait until it is ready."""
        self.stop_driver()
        command = [sys.executable, "-m", "robot_bridge.ros.simulator.node", "--log", str(self.log), *arguments]
        errors = (self.folder / "driver.txt").open("w", encoding="utf-8")
        with errors:
            self._driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        deadline_s = time.monotonic() + patience(_UP_S)
        while "is ready" not in self.errors():
            assert time.monotonic() < deadline_s and self.driver.poll() is None, self.errors()
            time.sleep(0.05)

    def is_down(self) -> bool:
        """Return whether no driver runs."""
        return self._driver is None or self._driver.poll() is not None

    def stop_driver(self) -> dict[str, Any]:
        """End the driver; return its summary, or nothing where it was killed or never ran."""
        if self._driver is None:
            return {}
        self._driver.terminate()
        try:
            output, _ = self._driver.communicate(timeout=patience(_DOWN_S))
        except subprocess.TimeoutExpired:
            self._driver.kill()
            output, _ = self._driver.communicate()
        self._driver = None
        summary: dict[str, Any] = json.loads(output.splitlines()[-1]) if output.strip() else {}
        return summary

    def errors(self) -> str:
        """Return the standard error of the driver."""
        return (self.folder / "driver.txt").read_text(encoding="utf-8")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name in the driver's log."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["event"] == name]

    def fault(self, name: str, duration_s: float = 0.0) -> None:
        """Switch a fault of the driver on."""
        import rospy

        from robot_bridge.ros import names
        from robot_bridge.ros.messages import load

        answer = rospy.ServiceProxy(names.FAULT, load()["robot_bridge/Fault"])(name, duration_s)
        assert answer.success, answer.error

    def leave(self) -> None:
        """End this process's own node, which would keep the process alive."""
        import rospy

        rospy.signal_shutdown("done")

    def close(self) -> None:
        """End both."""
        self.stop_driver()
        self.master.kill()
        self.master.wait()

    def _answers(self) -> bool:
        try:
            with xmlrpc.client.ServerProxy(self.uri) as master:
                answer: Any = master.getPid("/rig")
        except OSError:
            return False
        return bool(answer[0] == 1)


@contextmanager
def open_rig(*arguments: str) -> Iterator[Rig]:
    """Start a master and a driver; end both, whatever happens."""
    with ExitStack() as stack:
        rig = Rig(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rig"))))
        stack.callback(rig.close)
        rig.start_driver(*arguments)
        yield rig


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
