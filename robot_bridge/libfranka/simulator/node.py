"""The simulated FR3 over a bin with the libfranka protocol: franky-sim with this project's scene, faults and camera."""

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
from robot_bridge.libfranka.simulator.camera import LibfrankaSimulatedCamera
from robot_bridge.libfranka.simulator.server import SimulatedServer
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.fault_injection import IMAGE_FAULTS
from robot_bridge.simulation.scene import build

_TICK_S: Final = 0.001  # libfranka
_LATE_S: Final = 0.005  # a delay beyond this is not caught up; ours
_CAMERA_TICKS: Final = 30  # between two updates of the camera; ours
_HOSTS: Final = [f"127.0.{i}.1" for i in range(256)]
_STIFFNESS: Final = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # N m / rad; franky-sim
_DAMPING: Final = (160.0, 160.0, 120.0, 120.0, 40.0, 40.0, 40.0)  # N m s / rad; a third of franky-sim's, for less lag
_SENSOR: Final = '<sensor><contact name="push" subtree1="robot0_hand" reduce="netforce" data="force"/></sensor>'
_ARM: Final = "link0"  # body of this project's arm


class _ArmSections(Config):
    robot: SimulationConfig


class SimulatedArmError(ReportedError):
    """The simulated arm cannot start."""


def simulated_arm(
    scene: Annotated[
        Literal["bin", "pick_wipe", "pick_sweep"], typer.Option(help="Scene in front of the arm.")
    ] = "bin",
    split: Annotated[Literal["train", "test"], typer.Option(help="Split of the objects.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene; equal to that of run_task --seed.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address of this machine to bind; auto: the first free one of 127.0.N.1.")
    ] = "auto",
) -> None:
    """Serve a simulated FR3 with the libfranka protocol, and its camera as MJPEG, on the loopback interface.

    It needs franky-sim, which takes 660 MB with its dependencies; install it into an environment of its own:

    1. `python -m venv sim && sim/bin/pip install -c constraints.txt '.[simulation]' franky-sim`

    2. `sim/bin/python -m robot_bridge.libfranka.simulator.node`

    3. Use the printed addresses: `run_task pick_wipe --robot franka_direct --set robot.host=... --set
    robot.images.source=... --set robot.enforces_realtime=false`

    A line on standard input injects a fault: `reflex`, `user_stop`, `frozen`, `silent`, `dark`, `saturated`; `clear`
    ends all faults. SIGTERM or Ctrl-C ends the arm; the last line on standard output is a JSON summary.
    """
    sections = load(_ArmSections, {"robot": "robots/simulation.yaml"}, [f"robot.scene={scene}", f"robot.split={split}"])
    config = sections.robot
    rng = np.random.default_rng(seed).spawn(2)[0]
    xml = build(rng, config.scene, config.split, config.camera, config.camera_jitter).xml
    simulator, robot = make_simulator(xml)
    server = SimulatedServer(robot, _HOSTS if host == "auto" else [host])
    try:
        server.init()
    except OSError as error:
        raise SimulatedArmError(
            f"--host {host}: expected an address of this machine with port 1337 free, got '{error}'; choose another"
        ) from error
    simulator.start()
    camera = LibfrankaSimulatedCamera(xml, config.camera)
    camera.set_positions(simulator.data.qpos)
    address = camera.address()
    print(json.dumps({"host": server.hostname, "source": address}), flush=True)
    print("the simulated arm is ready", file=sys.stderr, flush=True)
    try:
        _run(simulator, server, camera)
    finally:
        camera.close()
        server.cleanup()


def make_simulator(scene_xml: str) -> tuple[MujocoSimulator, Any]:
    """Return a simulator, not started yet, and its robot.

    Its positions (nq,) are ordered as those of the scene: seven joints, two fingers, then all movable objects.
    """
    scene = ET.fromstring(scene_xml)  # noqa: S314
    simulator = MujocoSimulator()
    simulator.init()
    world = simulator.worldbody
    for each in list(world):  # its ground would coincide with the floor of the bin, and the scene has its own lights
        world.remove(each)
    robot = simulator.add_robot(initial_q=tuple(HOME_RAD), initial_hand_width=0.08, kp=_STIFFNESS, kv=_DAMPING)
    world.extend(each for each in scene.findall("worldbody/body") if each.get("name") != _ARM)
    option = simulator.scene.find("option")
    if option is not None:  # as in the scene, so that grasped objects do not slip
        option.attrib.update({"cone": "elliptic", "impratio": "10", "iterations": "30"})
    simulator.scene.append(ET.fromstring(_SENSOR))  # noqa: S314
    return simulator, robot


def push_n(simulator: MujocoSimulator) -> NDArray[np.float64]:
    """Return the contact force on the hand (3,), base frame."""
    return -np.array(simulator.data.sensordata[:3])


def _run(simulator: Any, server: SimulatedServer, camera: LibfrankaSimulatedCamera) -> None:
    """Advance in real time until a signal arrives."""
    signals: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    began_s = due_s = time.monotonic()
    tick = 0
    while not signals:
        server.process_commands()
        simulator.step()
        server.set_force(push_n(simulator))
        server.send_state()
        server.wait_for_command()
        tick += 1
        if tick % _CAMERA_TICKS == 0:
            camera.set_positions(simulator.data.qpos)
            while not lines.empty():
                _inject(lines.get(), server, camera)
        due_s = max(due_s + _TICK_S, time.monotonic() - _LATE_S)
        time.sleep(max(0.0, due_s - time.monotonic()))
    passed_s = time.monotonic() - began_s
    print(json.dumps({"seconds": passed_s, "real_time": tick * _TICK_S / passed_s, "recoveries": server.n_recoveries}))
    if signals[0] == signal.SIGINT:
        raise KeyboardInterrupt


def _read_lines(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line.strip())


def _inject(fault: str, server: SimulatedServer, camera: LibfrankaSimulatedCamera) -> None:
    """Inject a fault; report an unknown one on standard error."""
    if fault == "clear":
        server.release()
        camera.set_fault("")
    elif fault == "reflex":
        server.reflex()
    elif fault == "user_stop":
        server.user_stop()
    elif fault in IMAGE_FAULTS:
        camera.set_fault(IMAGE_FAULTS[IMAGE_FAULTS.index(fault)])
    else:
        known = f"reflex, user_stop, {', '.join(IMAGE_FAULTS[1:])}, clear"
        print(f"expected one of {known}, got '{fault}'", file=sys.stderr, flush=True)


def main() -> NoReturn:
    """Run the command."""
    run(simulated_arm)


if __name__ == "__main__":
    main()
