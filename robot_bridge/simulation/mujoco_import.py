"""The one door to MuJoCo: the environment that it reads at its first import is set here, before that import."""

from __future__ import annotations

import os
import sys

if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:
    # Unset, MuJoCo would ask for glfw, which needs a display and draws in the main thread only.
    os.environ["MUJOCO_GL"] = "egl"
os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's CPU renderer: one process a core beats threads

gl_error: str | None = None  # why OpenGL could not even be loaded
try:
    import mujoco
except (ImportError, AttributeError, OSError) as error:  # PyOpenGL without its libraries raises AttributeError
    gl_error = f"MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error}"
    os.environ["MUJOCO_GL"] = "disable"  # physics needs no OpenGL
    import mujoco

# An unstable simulation is counted in MjData.warning, which the robot turns into a fault; without this, MuJoCo would
# also append to a MUJOCO_LOG.TXT in the working directory.
mujoco.set_mju_user_warning(lambda _message: None)

__all__ = ["gl_error", "mujoco"]
