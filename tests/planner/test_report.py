"""The HTML report of an episode: self-contained, with its findings."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.loader import FOLDER
from ghvae_core.predictor import PredictorError
from planner.plan import FAMILY_MEANINGS
from planner.record import EpisodeDescription, EpisodeHistory, EpisodeResult, summarize
from planner.report import write_report
from planner.report_images import gripper_changes, hand_path, plan_points, start_with_objects, start_with_tool
from planner.report_plans import hold_cost, kinds_of_candidates, median_cost, runners_up
from planner.start_scene import DetectedObject, StartScene
from planner.task import TaskConfig, TaskController
from planner.task_words import _TASKS, task_words
from robot_bridge.robot import RobotFault
from robot_bridge.simulation.success import TaskSuccess
from tests.planner.doubles import GOAL, FakeRobot, StubPredictor, solver, towards_goal

DESCRIPTION = EpisodeDescription("pick_wipe", "simulation", "stub", "0123456789abcdef", "", 7)
FAILURE = TaskSuccess(goal=False, goal_now=False, picked=True, touched=False, strict=False, distance_m=0.053)


class _Page(HTMLParser):
    """Collects tags, addresses and the text; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.images = 0
        self.alts: list[str] = []  # of images and charts
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        if tag in {"img", "svg"}:
            self.alts.append(dict(attrs).get("alt" if tag == "img" else "aria-label") or "")
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action", "data", "srcset"}]
        if tag not in {"meta", "img", "link", "br", "path", "use"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _run(n_steps: int = 5) -> EpisodeHistory:
    robot = FakeRobot()
    task = TaskController(TaskConfig(scene="pick_wipe", n_steps=n_steps), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    while not task.ended:
        task.advance()
    return task.history


def _write(
    folder: Path, history: EpisodeHistory, config_yaml: str = "task:\n  n_steps: 5\n"
) -> tuple[_Page, EpisodeResult]:
    folder.mkdir(exist_ok=True)
    result = summarize(DESCRIPTION, history, str(folder / "report.html"))
    write_report(folder, history, result, config_yaml)
    return _Page((folder / "report.html").read_text(encoding="utf-8")), result


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, _run())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.images > 10 and all(address.startswith("data:image/") for address in page.addresses)
    assert "http" not in html and "<script" not in html and not re.search(r"@import|url\(", html)


def test_images_are_written_as_separate_files_too(tmp_path: Path) -> None:
    _write(tmp_path, _run())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "goal.png", "start.png", "end.png", "seen.gif"} | {
        f"plan_{i:02d}.gif" for i in range(3)
    }
    for path in tmp_path.iterdir():
        head = path.read_bytes()[:4]
        assert head == {".png": b"\x89PNG", ".gif": b"GIF8", ".html": b"<!DO"}[path.suffix]


def _text(page: _Page) -> str:
    return " ".join(" ".join(page.texts).split())


def _webp(page: _Page) -> list[int]:
    """Return the number of frames of each animation on a page, and check that it is large enough to be seen."""
    counts = []
    for address in page.addresses:
        if address.startswith("data:image/webp"):
            with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as file:
                counts.append(getattr(file, "n_frames", 1))
                assert file.size[1] >= (384 if not counts[:-1] else 96)
    return counts


def test_every_plan_shows_its_family_its_cost_and_its_videos(tmp_path: Path) -> None:
    history = _run()
    page, _ = _write(tmp_path, history)
    text = _text(page)
    for record in history.plans:
        meaning = FAMILY_MEANINGS[record.plan.family]
        assert f"Plan after {record.step} actions: {meaning} ({record.plan.family})" in text
        assert f"it has the lowest predicted cost: {record.plan.cost:.5f}" in text
        assert f"{hold_cost(record.plan):.5f} for holding still" in text
        assert f"{median_cost(record.plan):.5f} for the median" in text
    n_videos = sum(len(record.plan.best) for record in history.plans)
    assert sum(address.startswith("data:image/webp") for address in page.addresses) == n_videos + 1
    assert text.count("chosen ") >= len(history.plans)


def test_the_page_says_what_the_task_is_and_shows_the_whole_run_before_any_chart(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, _run(5))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Grasp the tool, and wipe the objects off the plate with it" in _text(page)
    assert html.index("data:image/webp") < html.index("<svg") and html.index("verdict -->") < html.index("The task:")
    assert _webp(page)[0] == 6  # the start, and one after each action
    assert "It counts the arm too, so it may rise" in _text(page)


def test_the_page_says_what_predicted(tmp_path: Path) -> None:
    history = _run()
    for predictor, words in {
        "in_process": "a model predicts",
        "oracle": "the simulation itself",
        "copy": "nothing will",
    }.items():
        result = replace(summarize(DESCRIPTION, history, "report.html"), predictor=predictor)
        write_report(tmp_path, history, result, "")
        assert words in _text(_Page((tmp_path / "report.html").read_text(encoding="utf-8")))


def test_objects_that_are_in_place_without_the_tool_are_explained(tmp_path: Path) -> None:
    history = _run()
    history.outcome = replace(FAILURE, goal=True, picked=False)
    page, _ = _write(tmp_path, history)
    assert "not brought there with the tool, so the task does not count as done" in _text(page)


def test_a_task_without_a_sentence_is_described_by_its_goal() -> None:
    words = task_words("open_drawer")
    assert words[:3] == ("open_drawer", "Make the scene look like the goal image", "in place")
    assert words.question == "Does the scene look like the goal image, apart from the arm?"
    assert set(_TASKS) == {path.stem for path in (FOLDER / "tasks").glob("*.yaml")}


def test_every_image_and_every_chart_has_a_text(tmp_path: Path) -> None:
    history = _run()
    history.scene = _scene(history)
    page, _ = _write(tmp_path, history)
    assert len(page.alts) > 15 and all(page.alts)


def test_the_legend_has_every_family_that_occurs(tmp_path: Path) -> None:
    history = _run()
    page, _ = _write(tmp_path, history)
    families = {family for record in history.plans for family in record.plan.families}
    assert len(families) > 1 and families <= set(FAMILY_MEANINGS)
    for family in families:
        assert FAMILY_MEANINGS[family] in _text(page)
    kinds = kinds_of_candidates(history)
    assert {kind.family for kind in kinds} == families and sum(kind.n_chosen for kind in kinds) == len(history.plans)


def test_a_stage_that_is_too_short_to_be_shown_is_left_out(tmp_path: Path) -> None:
    history = _run()
    long = {"observe": 0.0001, "propose": 0.3, "predict": 2.0}
    history.plans[:] = [replace(record, latency_s=long) for record in history.plans]
    page, _ = _write(tmp_path, history)
    assert "observe" not in page.texts and {"propose", "predict"} < set(page.texts)
    assert not any(re.search(r"\b0\.00+ s", text) for text in page.texts)


def _scene(history: EpisodeHistory, tool_pixel: tuple[float, float] | None = (60.0, 100.0)) -> StartScene:
    mask = np.zeros(history.start.observation.image.shape[:2], bool)
    mask[90:110, 50:70] = True
    moves = DetectedObject(mask, np.array([59.5, 99.5]), True, np.array([200.0, 150.0]))
    hidden = DetectedObject(mask[::-1], np.array([59.5, 139.5]), True, None)
    stays = DetectedObject(mask[:, ::-1], np.array([259.5, 99.5]), False, None)
    return StartScene([moves, hidden, stays], None if tool_pixel is None else np.array(tool_pixel))


def test_the_tool_is_marked_where_the_simulation_knows_it(tmp_path: Path) -> None:
    history = _run()
    for name, pixel in {"known": (60.0, 100.0), "not detected": (160.0, 30.0)}.items():
        history.scene = _scene(history, pixel)
        marked = start_with_tool(history)
        assert marked is not None and (marked == (255, 170, 0)).all(axis=2).any(), name
        page, _ = _write(tmp_path / name, history)
        assert "The tool is outlined" in _text(page) and "with the tool outlined" in " ".join(page.alts)


def test_without_knowledge_of_the_tool_only_the_detected_objects_are_marked(tmp_path: Path) -> None:
    history = _run()
    history.scene = _scene(history, None)
    page, _ = _write(tmp_path, history)
    assert "The tool is outlined" not in _text(page) and "What the planner detects" in _text(page)
    drawn = start_with_objects(history)
    assert drawn is not None and (drawn == (250, 230, 60)).all(axis=2).any()
    history.scene = StartScene([], None)
    page, _ = _write(tmp_path, history)
    assert "What the planner detects" not in _text(page) and start_with_tool(history) is None


def test_it_names_the_cause_of_a_failed_task(tmp_path: Path) -> None:
    history = _run()
    history.outcome = FAILURE
    page, result = _write(tmp_path, history)
    text = " ".join(page.texts)
    assert "The tool was lifted." in text and "The tool never touched an object." in text
    assert (
        "the largest distance of an object is 5.3 cm" in text
        and "Not done" in text
        and "It ended after 5 actions" in text
    )
    assert (result.success, result.goal, result.picked, result.touched) == (False, False, True, False)


def test_the_success_of_a_real_robot_is_unknown(tmp_path: Path) -> None:
    page, result = _write(tmp_path, _run())
    text = " ".join(page.texts)
    assert result.success is None and result.judged_by == ""
    assert (
        "Not judged" in text
        and all(f"run_task judge {tmp_path} {answer}" in text for answer in ("yes", "no"))
        and "Not done" not in text
    )


def test_an_episode_that_failed_before_its_first_plan_has_a_page(tmp_path: Path) -> None:
    robot = FakeRobot()
    task = TaskController(TaskConfig(scene="pick_wipe"), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    task.history.outcome = replace(FAILURE, picked=False)
    with pytest.raises(PredictorError), task:
        raise PredictorError("<the server> is gone")
    page, result = _write(tmp_path, task.history)
    text = " ".join(page.texts)
    assert "Stopped by a failure" in text and "<the server> is gone. The arm was held." in text
    assert "The tool was never lifted." in text and "Not judged" not in text and result.success is False
    assert "ended before the first plan" in text and (result.steps, result.plans) == (0, 0)
    assert result.cost is None and result.seconds_per_plan is None and result.prediction_error is None
    assert result.distance_start == result.distance_end == round(task.history.start.goal_distance, 2)
    assert page.texts.count("No data.") == 2 and "observed to predicted" not in text


def test_an_episode_whose_first_action_failed_shows_its_plan(tmp_path: Path) -> None:
    robot = FakeRobot(fault_at_step=0)
    task = TaskController(TaskConfig(scene="pick_wipe"), robot, StubPredictor(towards_goal), solver())
    task.begin(robot.observe(), GOAL, np.random.default_rng(0))
    with pytest.raises(RobotFault), task:
        task.advance()
    page, result = _write(tmp_path, task.history)
    text = " ".join(page.texts)
    assert "reflex. The arm was held." in text and "Plan after 0 actions" in text and "executed actions" not in text
    assert (result.steps, result.plans, result.prediction_error) == (0, 1, None)


def test_costs_that_are_not_finite_are_counted_and_not_drawn(tmp_path: Path) -> None:
    history = _run()
    first = history.plans[0]
    costs = first.plan.costs.copy()
    costs[[0, 3]] = np.nan, np.inf  # candidate 0 holds still
    history.plans[0] = replace(first, plan=replace(first.plan, costs=costs))
    page, _ = _write(tmp_path, history)
    assert "2 candidates without a finite cost" in " ".join(" ".join(page.texts).split())


def test_the_configuration_is_escaped(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, _run(), "note: <script>alert(1)</script> & <b>\n")
    assert "note: <script>alert(1)</script> & <b>" in " ".join(page.texts)


def test_the_result_is_one_line_of_json_of_finite_numbers() -> None:
    line = summarize(DESCRIPTION, _run(), "report.html").to_json()
    result = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert "\n" not in line
    assert result["task"] == "pick_wipe" and result["seed"] == 7 and result["steps"] == 5 and result["plans"] == 3
    assert result["success"] is None and result["ended"] == "steps used" and result["deviation_m"] < 1e-6
    assert result["distance_start"] > 0 and result["seconds_per_plan"] > 0


def test_the_page_says_how_the_simulation_decides(tmp_path: Path) -> None:
    history = _run()
    history.outcome = TaskSuccess(True, True, True, True, True, 0.0)
    text = _text(_write(tmp_path / "simulated", history)[0])
    assert "every object is off the plate: its centre lies beyond the rim" in text
    assert "need not be where the goal image shows them" in text and "At the end every object is off the plate." in text
    history.outcome = None
    assert "How it is judged" not in _text(_write(tmp_path / "real", history)[0])


def test_a_warning_on_the_goal_stands_above_the_images(tmp_path: Path) -> None:
    history = _run()
    result = replace(summarize(DESCRIPTION, history, "report.html"), goal_warnings=("it is <grey>",))
    write_report(tmp_path, history, result, "")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.index("<b>Check the goal image:</b> it is &lt;grey&gt;.") < html.index("data:image")


def test_the_reason_names_the_second_best_and_the_best_of_another_kind(tmp_path: Path) -> None:
    history = _run()
    first = history.plans[0]
    families = ["hold", "use", "use", "carry", *["play"] * (len(first.plan.costs) - 4)]
    costs = np.full(len(families), 0.05, np.float32)
    costs[:4] = 0.04, 0.01, 0.0102, 0.02
    plan = replace(first.plan, families=families, costs=costs, index=1, cost=0.01)
    assert runners_up(plan) == (2, 3)
    history.plans[0] = replace(first, plan=plan)
    text = _text(_write(tmp_path, history)[0])
    assert (
        "0.01020 (2.0 % more) for number 2 (use), 0.02000 (100.0 % more) for the best of another kind (carry)" in text
    )
    assert "Number 2 is so close" in text
    holding = replace(plan, families=["hold", "use"], costs=costs[:2])
    assert runners_up(holding) == (0, None)


def test_the_path_of_the_hand_is_drawn_where_the_camera_is_known(tmp_path: Path) -> None:
    history = _run()
    assert hand_path(history, 0) is None
    camera = FakeRobot().spec.camera
    history.scene = replace(_scene(history), camera=camera)
    drawn = hand_path(history, 0)
    assert drawn is not None and (drawn == (90, 200, 255)).all(axis=2).any()
    points_m = plan_points(history, 0)
    assert points_m[0] == pytest.approx(history.start.observation.state[:3])
    assert points_m[-1] - points_m[0] == pytest.approx(history.plans[0].plan.actions[:, :3].sum(axis=0), abs=1e-6)
    page, _ = _write(tmp_path, history)
    assert sum("with the path of the hand" in alt for alt in page.alts) == len(history.plans)
    actions = history.plans[0].plan.actions.copy()
    actions[:, 3] = [-1, 1, 1, *[-1] * (len(actions) - 3)]
    history.plans[0] = replace(history.plans[0], plan=replace(history.plans[0].plan, actions=actions))
    assert gripper_changes(history, 0) == [(2, True), (4, False)]
