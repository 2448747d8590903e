"""The ROS master: joining it, and noticing that it is gone."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import urllib.parse
import xmlrpc.client
from typing import Any

import rospy

from robot_bridge.robot import RobotError


class MasterError(RobotError):
    """The ROS master cannot be reached, or is another one than before. The arm holds its pose."""


class Master:
    """The master that this process has joined."""

    def __init__(self, node: str, timeout_s: float) -> None:
        """Join as an anonymous node; in a process that has joined already, nothing is done twice.

        Raises:
            MasterError: No master answers; or it is on another machine, and nobody has said that ROS may listen there.
        """
        self.uri = os.environ.get("ROS_MASTER_URI", "http://localhost:11311")
        self._server = xmlrpc.client.ServerProxy(self.uri, transport=_Transport(timeout_s))
        self._pid = self._ask()
        _check_network(self.uri)
        if not rospy.core.is_initialized():
            _join(node)

    def check(self) -> None:
        """Refuse to go on without the master that was joined: a new one knows none of the nodes.

        Raises:
            MasterError: It is gone, or another has taken its place.
        """
        if self._ask() != self._pid:
            raise MasterError(f"{self.uri}: the ROS master was restarted; restart the driver, then this command")

    def _ask(self) -> int:
        """Return the master's process number."""
        try:
            answer: Any = self._server.getPid("/ghvae")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise MasterError(
                f"{self.uri}: expected a ROS master, got {_reason(error)}; start one, or set ROS_MASTER_URI"
            ) from error
        return int(answer[2])


class _Transport(xmlrpc.client.Transport):
    """HTTP that gives up: a master that was stopped would otherwise hold its callers for ever."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = self._timeout_s
        return connection


def _check_network(uri: str) -> None:
    """Let ROS, which has no keys, listen on this machine alone, unless its user has chosen a network."""
    if os.environ.get("ROS_IP") or os.environ.get("ROS_HOSTNAME"):
        return
    host = urllib.parse.urlparse(uri).hostname or ""
    if host != "localhost" and not host.startswith("127."):
        raise MasterError(
            f"{uri}: expected ROS_IP to say on which network to listen for a master on another machine, got nothing; "
            "set it to this machine's address in the robot's own network, which nobody else is on: ROS has no keys"
        )
    os.environ["ROS_IP"] = "127.0.0.1"


def _join(node: str) -> None:
    """Become a node, and go on telling people what they are told without ROS, which takes the log away."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    rospy.init_node(node, anonymous=True, disable_signals=True)
    for handler in handlers:
        handler.setLevel(max(handler.level, level))
        handler.addFilter(lambda record: not record.name.startswith("ros"))  # which keeps its own file
        root.addHandler(handler)


def _reason(error: Exception) -> str:
    return "no answer" if isinstance(error, socket.timeout) else str(error) or type(error).__name__
