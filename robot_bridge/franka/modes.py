"""The robot modes of libfranka, as ROS messages and the protocol itself number them."""

from __future__ import annotations

from typing import Final

IDLE: Final = 1
MOVING: Final = 2
GUIDING: Final = 3
REFLEX: Final = 4
USER_STOPPED: Final = 5
RECOVERING: Final = 6
