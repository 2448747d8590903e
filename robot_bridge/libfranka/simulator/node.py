"""A simulated FR3 before the bin, behind libfranka's own protocol: franky-sim with our scene, faults and a camera."""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ET
from types import FrameType
from typing import Annotated, Any, Final, Literal, NoReturn

import numpy as np
import typer
from franky_sim.mujoco_simulator import MujocoSimulator
from numpy.typing import NDArray

from configs.command import ReportedError, run
from configs.loader import Config, load
from robot_bridge.kinematics import HOME_RAD
from robot_bridge.libfranka.simulator.camera import IMAGE_FAULTS, LibfrankaSimulatedCamera
from robot_bridge.libfranka.simulator.server import SimulatedServer
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.scene import build

_TICK_S: Final = 0.001  # of libfranka
_LATE_S: Final = 0.005  # behind real time by more than this, time is not made up for
_SHOW_TICKS: Final = 30  # between two looks of the camera
_HOSTS: Final = [f"127.0.{i}.1" for i in range(256)]


class _Sections(Config):
    robot: SimulationConfig


class SimulatedArmError(ReportedError):
    """The simulated arm cannot start."""


def simulated_arm(
    scene: Annotated[
        Literal["bin", "pick_wipe", "pick_sweep"], typer.Option(help="what stands before the arm")
    ] = "bin",
    split: Annotated[Literal["train", "test"], typer.Option(help="which objects")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="draws the scene, the same as run_task --seed N does")] = 0,
    host: Annotated[str, typer.Option(help="address of this machine; auto: the first 127.0.N.1 that is free")] = "auto",
) -> None:
    """Serve a simulated FR3 as libfranka knows it, and its camera as MJPEG, on this machine alone.

    It needs franky-sim, which with its dependencies takes 660 MB and is best kept apart:

    1. `python -m venv sim && sim/bin/pip install -c constraints.txt '.[simulation]' franky-sim`

    2. `sim/bin/python -m robot_bridge.libfranka.simulator.node`

    3. what it prints, as `run_task pick_wipe --robot franka_direct --set robot.host=... --set
    robot.images.source=... --set robot.enforces_realtime=false`

    A line on standard input switches a fault on: `reflex`, `user_stop`, `frozen`, `silent`, `dark`, `saturated`;
    `clear` ends them all. SIGTERM or Ctrl-C ends it; the last line on standard output is a summary as JSON.
    """
    sections = load(_Sections, {"robot": "robots/simulation.yaml"}, [f"robot.scene={scene}", f"robot.split={split}"])
    config = sections.robot
    rng = np.random.default_rng(seed).spawn(2)[0]
    xml = build(rng, config.scene, config.split, config.camera, config.camera_jitter).xml
    simulator, robot = simulate(xml)
    server = SimulatedServer(robot, _HOSTS if host == "auto" else [host])
    try:
        server.init()
    except OSError as error:
        raise SimulatedArmError(
            f"--host {host}: expected an address of this machine whose port 1337 is free, got '{error}'"
        ) from error
    simulator.start()
    camera = LibfrankaSimulatedCamera(xml, config.camera)
    camera.show(simulator.data.qpos)
    address = camera.address()
    print(json.dumps({"host": server.hostname, "source": address}), flush=True)
    print("the simulated arm is ready", file=sys.stderr, flush=True)
    try:
        _run(simulator, server, camera)
    finally:
        camera.close()
        server.cleanup()


def _run(simulator: Any, server: SimulatedServer, camera: LibfrankaSimulatedCamera) -> None:
    """Keep real time until told to stop."""
    told: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    began_s = due_s = time.monotonic()
    tick = 0
    while not told:
        server.process_commands()
        simulator.step()
        server.feel(push_n(simulator))
        server.send_state()
        server.wait_for_command()
        tick += 1
        if tick % _SHOW_TICKS == 0:
            camera.show(simulator.data.qpos)
            while not lines.empty():
                _switch(lines.get(), server, camera)
        due_s = max(due_s + _TICK_S, time.monotonic() - _LATE_S)
        time.sleep(max(0.0, due_s - time.monotonic()))
    passed_s = time.monotonic() - began_s
    print(json.dumps({"seconds": passed_s, "real_time": tick * _TICK_S / passed_s, "recoveries": server.n_recoveries}))
    if told[0] == signal.SIGINT:
        raise KeyboardInterrupt


def _listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line.strip())


def _switch(fault: str, server: SimulatedServer, camera: LibfrankaSimulatedCamera) -> None:
    """Switch a fault on; an unknown one is told on standard error."""
    if fault == "clear":
        server.release()
        camera.trouble("")
    elif fault == "reflex":
        server.reflex()
    elif fault == "user_stop":
        server.user_stop()
    elif fault in IMAGE_FAULTS:
        camera.trouble(IMAGE_FAULTS[IMAGE_FAULTS.index(fault)])
    else:
        print(
            f"'{fault}' is none of reflex, user_stop, {', '.join(IMAGE_FAULTS[1:])}, clear", file=sys.stderr, flush=True
        )


def main() -> NoReturn:
    """Run the command."""
    run(simulated_arm)


_STIFFNESS: Final = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # N m / rad; franky-sim
_DAMPING: Final = (160.0, 160.0, 120.0, 120.0, 40.0, 40.0, 40.0)  # N m s / rad; a third of its: the arm lags less
_SENSOR: Final = '<sensor><contact name="push" subtree1="robot0_hand" reduce="netforce" data="force"/></sensor>'
_ARM: Final = "link0"  # our own


def simulate(scene_xml: str) -> tuple[MujocoSimulator, Any]:
    """Return a simulator, not started yet, and its robot.

    Its positions (nq,) are in the order of the scene's own: seven joints, two fingers, whatever is free to move.
    """
    scene = ET.fromstring(scene_xml)  # noqa: S314
    simulator = MujocoSimulator()
    simulator.init()
    world = simulator.worldbody
    for each in list(world):  # the ground is where the bin's floor is, the lights are not ours
        world.remove(each)
    robot = simulator.add_robot(initial_q=tuple(HOME_RAD), initial_hand_width=0.08, kp=_STIFFNESS, kv=_DAMPING)
    world.extend(each for each in scene.findall("worldbody/body") if each.get("name") != _ARM)
    option = simulator.scene.find("option")
    if option is not None:
        option.attrib.update({"cone": "elliptic", "impratio": "10", "iterations": "30"})  # as ours: what is held, holds
    simulator.scene.append(ET.fromstring(_SENSOR))  # noqa: S314
    return simulator, robot


def push_n(simulator: MujocoSimulator) -> NDArray[np.float64]:
    """Return the force (3,) with which contacts push the hand, in the base frame."""
    return -np.array(simulator.data.sensordata[:3])


if __name__ == "__main__":
    main()
