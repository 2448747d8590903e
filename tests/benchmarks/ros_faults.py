"""Benchmark of faults during motion: each fault is injected repeatedly into the simulated driver."""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from configs.command import ReportedError, run
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, forward
from tests.patience import patience
from tests.robot_bridge.ros.configurations import QUICK, config
from tests.robot_bridge.ros.rig import ROOT, Rig, open_rig

_REST_RAD_S = 0.03
_REST_S = 0.1  # for this long below it the arm is at rest
_MOVES_RAD_S = 0.15
_PATIENCE_S = 90.0  # for a run to start moving, and to end
_STREAM_S = 0.2  # commands farther apart belong to two streams
_ONCE, _TWICE = "collection.max_faults_in_row=1", "collection.max_faults_in_row=2"
_SETTINGS = (
    *QUICK,
    "robot.gripper.homes=false",
    "supervision.give_up_s=0",
)  # a run that cannot continue ends immediately

Process = subprocess.Popen[str]


class FaultError(ReportedError):
    """A fault did not have the expected result."""

    exit_code = 1


@dataclass(frozen=True)
class Fault:
    """One fault, and the expected end of the command that controls the arm."""

    name: str
    cause: Callable[[Rig, Process], None] | None  # None: the command sends an invalid action itself
    exit_code: int
    message: str  # expected in the output of the command, as a regular expression
    n_steps: int = 8  # of the interrupted episode
    settings: tuple[str, ...] = (_ONCE,)
    keeps_master: bool = True


@dataclass(frozen=True)
class Result:
    """One repetition. Times are seconds after the fault; None if not observed."""

    fault: str
    n_commands: int  # after the fault
    last_command_s: float  # before the stream paused or ended
    rest_s: float | None  # until the arm rested
    largest_step: float  # between two commands of a stream, as a fraction of the limit
    outside_m: float  # of the workspace and its margin, by the worst command
    exit_code: int
    message: str
    last_line: str


@dataclass
class Recorder:
    """Recorded commands and joint speeds, with monotonic arrival times."""

    commands: list[tuple[float, int, NDArray[np.float64]]] = field(default_factory=list)  # time, number, joints
    speeds: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self) -> None:
        """Subscribe to commands and joint states."""
        import rospy
        from sensor_msgs.msg import JointState

        from robot_bridge.ros import names
        from robot_bridge.ros.driver import Master
        from robot_bridge.ros.messages import load

        Master("recorder", 5.0)
        rospy.Subscriber(names.JOINT_COMMANDS, load()["franka_core_msgs/JointCommand"], self._command, tcp_nodelay=True)
        rospy.Subscriber(names.JOINT_STATES, JointState, self._state, tcp_nodelay=True)

    def clear(self) -> None:
        """Discard all records."""
        with self.lock:
            self.commands, self.speeds = [], []

    def is_moving(self) -> bool:
        """Return whether the arm moves by a command."""
        with self.lock:
            return bool(self.commands and self.speeds and self.speeds[-1][1] > _MOVES_RAD_S)

    def _command(self, message: Any) -> None:
        with self.lock:
            self.commands.append((time.monotonic(), message.header.seq, np.array(message.position)))

    def _state(self, message: Any) -> None:
        with self.lock:
            self.speeds.append((time.monotonic(), float(np.abs(message.velocity).max())))


def _switch(name: str) -> Callable[[Rig, Process], None]:
    return lambda rig, _process: rig.fault(name)


def _stop_and_go(_rig: Rig, process: Process) -> None:
    """Suspend the process that controls the arm, a child of the collector."""
    (worker,) = [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    worker.suspend()
    time.sleep(1.0)
    worker.resume()


FAULTS = (
    Fault("driver killed", lambda rig, _: rig.driver.kill(), 1, "expected a state of the last 0.2 s"),
    Fault("camera frozen", _switch("camera_frozen"), 1, "a frozen camera", settings=(_TWICE,)),
    Fault("camera silent", _switch("camera_silent"), 1, "check the camera", settings=(_TWICE,)),
    Fault("joint state stale", _switch("joint_state_stale"), 1, "expected a state of the last 0.2 s"),
    Fault("reflex", _switch("reflex"), 0, r"the arm stopped \(", settings=()),
    Fault("reflex storm", _switch("reflex_storm"), 1, r"the arm stopped \(", settings=()),
    Fault("user stop", _switch("user_stop"), 1, "the user stop was pressed", settings=()),
    Fault("gripper misses", _switch("gripper_misses"), 0, "", settings=()),
    Fault(
        "gripper hangs",
        _switch("gripper_hangs"),
        1,
        "expected a result within 2 s",
        40,
        (_ONCE, "robot.gripper.timeout_s=2.0"),
    ),
    Fault("master restarted", lambda rig, _: rig.restart_master(), 1, "ROS master", keeps_master=False),
    Fault("NaN action", None, 1, "finite"),
    Fault("target outside the box", None, 0, ""),
    Fault("planner stopped (SIGSTOP)", _stop_and_go, 0, "was interrupted|a state of the last 0.2 s", settings=()),
    Fault("supervisor killed (kill -9)", lambda _, process: process.kill(), -signal.SIGKILL, ""),
    Fault("Ctrl-C", lambda _, process: process.send_signal(signal.SIGINT), 130, ""),
)


def repeat(fault: Fault, seeds: range, out: Path) -> None:
    """Inject a fault once per seed, and append each result to a JSON lines file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs of a shell
    with open_rig() as rig:
        recorder = Recorder()
        recorder.listen()
        try:
            for seed in seeds:
                if rig.is_down():
                    rig.start_driver()
                rig.fault("clear")
                result = _inject(fault, rig, recorder, seed)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"seed": seed, **asdict(result)}) + "\n")
        finally:
            rig.leave()


def _inject(fault: Fault, rig: Rig, recorder: Recorder, seed: int) -> Result:
    rng = np.random.default_rng(seed)
    recorder.clear()
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            _command(fault, seed, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _wait(recorder, process, float(rng.uniform(0.5, 4.0)) if fault.cause else 0.0)
            began_s = time.monotonic()
            if fault.cause is not None:
                fault.cause(rig, process)
            _, output = process.communicate(timeout=patience(_PATIENCE_S))
        finally:
            process.kill()
    return _result(fault, recorder, began_s, process.returncode, output)


def _command(fault: Fault, seed: int, folder: str) -> list[str]:
    """Return the command that controls the arm: the collector, or one that sends invalid actions."""
    if fault.cause is None:
        return [sys.executable, "-m", "tests.robot_bridge.ros.invalid_actions", fault.name, str(seed)]
    settings = [f"collection.n_steps={fault.n_steps}", "collection.steps_per_draw=[3,6]", *_SETTINGS, *fault.settings]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "data_collection.run_collection", "--robot", "franka_ros", "--episodes", "1"]
    return [*command, "--seed", str(seed), "--out", f"{folder}/episodes", *overrides]


def _wait(recorder: Recorder, process: Process, delay_s: float) -> None:
    """Wait until the arm has been commanded for `delay_s`, and moves."""
    deadline_s = time.monotonic() + patience(_PATIENCE_S)
    while not recorder.commands:
        _check_alive(process, deadline_s)
    due_s = time.monotonic() + delay_s
    while time.monotonic() < due_s or not recorder.is_moving():
        _check_alive(process, deadline_s)


def _check_alive(process: Process, deadline_s: float) -> None:
    time.sleep(0.002)
    if process.poll() is not None or time.monotonic() > deadline_s:
        errors = process.stderr.read() if process.stderr and process.poll() is not None else ""
        raise FaultError(f"expected an arm that moves, got exit code {process.poll()}: {errors}")


def _result(fault: Fault, recorder: Recorder, began_s: float, exit_code: int, output: str) -> Result:
    limits, motion = config().limits, config().motion
    bound = motion.speed_fraction * SPEED_LIMITS_RAD_S * motion.tick_s
    low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    with recorder.lock:
        after = [(at_s - began_s, n, joints) for at_s, n, joints in recorder.commands if at_s > began_s]
        speeds = [(at_s - began_s, speed) for at_s, speed in recorder.speeds if at_s > began_s]
    steps = [
        np.abs(to - from_) / (bound * (n - m))  # per command, also if ROS dropped some in between
        for (s, m, from_), (t, n, to) in pairwise(after)
        if t - s < _STREAM_S and n > m
    ]
    hands = np.array([forward(joints).position_m for _, _, joints in after]).reshape(-1, 3)
    beyond = np.maximum(low - hands, hands - high).max(initial=0.0)
    lines = [line for line in output.splitlines() if line.strip()]
    message = next((line for line in reversed(lines) if re.search(fault.message, line)), lines[-1] if lines else "")
    return Result(
        fault=fault.name,
        n_commands=len(after),
        last_command_s=_pause([at_s for at_s, _, _ in after]),
        rest_s=_rest(speeds),
        largest_step=max((float(step.max()) for step in steps), default=0.0),
        outside_m=max(0.0, float(beyond) - motion.workspace_margin_m),
        exit_code=exit_code,
        message=message.strip(),
        last_line=lines[-1].strip() if lines else "",
    )


def _pause(times_s: list[float]) -> float:
    """Return when the commands first paused."""
    return next(at_s for at_s, following_s in pairwise([0.0, *times_s, np.inf]) if following_s - at_s > _STREAM_S / 2)


def _rest(speeds: list[tuple[float, float]]) -> float | None:
    """Return when the arm first came to rest."""
    since_s: float | None = None
    for at_s, speed in speeds:
        since_s = None if speed > _REST_RAD_S else at_s if since_s is None else since_s
        if since_s is not None and at_s - since_s > _REST_S:
            return since_s
    return None


def check(fault: Fault, results: list[Result]) -> Iterator[str]:
    """Yield a description of each unexpected result."""
    for i, result in enumerate(results):
        if result.exit_code != fault.exit_code or not re.search(fault.message, result.message):
            end = f"exit code {result.exit_code}, message '{result.message}', last line '{result.last_line}'"
            yield f"{fault.name} ({i}): {end}"
        if result.largest_step > 1.001 or result.outside_m > 0:
            yield f"{fault.name} ({i}): a step of {result.largest_step:.3f}, {result.outside_m:.4f} m outside"


def row(fault: Fault, results: list[Result]) -> str:
    """Return a line of the table."""
    last = _range([each.last_command_s for each in results])
    rest = _range([each.rest_s for each in results if each.rest_s is not None])
    step, outside = max(each.largest_step for each in results), max(each.outside_m for each in results)
    codes = ", ".join(str(code) for code in sorted({each.exit_code for each in results}))
    return (
        f"| {fault.name} | {len(results)} | {last} | {rest} | {100 * step:.0f} % | {1000 * outside:.0f} mm | {codes} |"
        f" {results[-1].message[:160]} |"
    )


def _range(values: list[float]) -> str:
    return f"{np.median(values):.2f}, at most {max(values):.2f}" if values else "-"


def read(out: Path) -> dict[str, list[Result]]:
    """Return the results in a JSON lines file, by fault."""
    found: dict[str, list[Result]] = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        values = json.loads(line)
        del values["seed"]
        found.setdefault(values["fault"], []).append(Result(**values))
    return found


def ros_faults(
    times: Annotated[int, typer.Option(min=1, help="Repetitions of each fault.")] = 20,
    only: Annotated[list[str] | None, typer.Option(help="Run only these faults.")] = None,
    out: Annotated[Path, typer.Option(help="JSON lines of results; existing ones are not repeated.")] = Path(
        "faults.jsonl"
    ),
) -> None:
    """Inject one fault at a time while the collector controls the arm, and print the results.

    The table: seconds until the last command and until the arm rested; the largest step between two commands as a
    fraction of the limit; how far a command left the workspace and its margin; the exit code; the message.
    """
    print("| fault | times | last command, s | at rest, s | largest step | outside | exit | message |")
    print("|---|---|---|---|---|---|---|---|")
    unexpected: list[str] = []
    for fault in [each for each in FAULTS if not only or each.name in only]:
        n = len(read(out).get(fault.name, []))
        while n < times:
            seeds = range(n, times if fault.keeps_master else n + 1)
            child = multiprocessing.get_context("spawn").Process(target=_repeat_named, args=(fault.name, seeds, out))
            child.start()  # a process can register at one master only
            child.join()
            if child.exitcode:
                raise FaultError(f"{fault.name}: the benchmark failed; see above")
            n = len(read(out)[fault.name])
        results = read(out)[fault.name]
        unexpected += check(fault, results)
        print(row(fault, results), flush=True)
    if unexpected:
        raise FaultError("; ".join(unexpected))


def _repeat_named(name: str, seeds: range, out: Path) -> None:
    """Repeat a fault given by name; run in another process."""
    repeat(next(fault for fault in FAULTS if fault.name == name), seeds, out)


def main() -> NoReturn:
    """Run the command."""
    run(ros_faults)


if __name__ == "__main__":
    main()
