"""Import of MuJoCo, with the environment variables that it reads at its first import. Use this module only."""

from __future__ import annotations

import os
import sys

if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:
    # Without it MuJoCo would use glfw, which needs a display and renders in the main thread only.
    os.environ["MUJOCO_GL"] = "egl"
os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's CPU renderer: one process per core is faster than threads

gl_error: str | None = None  # why OpenGL could not be loaded; None: it was
try:
    import mujoco
except (ImportError, AttributeError, OSError) as error:  # PyOpenGL without its libraries raises AttributeError
    gl_error = f"MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error}"
    os.environ["MUJOCO_GL"] = "disable"  # physics needs no OpenGL
    import mujoco

# The robot turns an unstable simulation, counted in MjData.warning, into a fault. Without this callback MuJoCo would
# also append to a MUJOCO_LOG.TXT in the working directory.
mujoco.set_mju_user_warning(lambda _message: None)

__all__ = ["gl_error", "mujoco"]
