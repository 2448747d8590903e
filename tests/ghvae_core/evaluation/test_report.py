"""Tables, figures and files of an evaluation."""

from __future__ import annotations

import errno
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from data_collection import atomic_io
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED, EvaluatedModel
from ghvae_core.evaluation.figures import draw_curves, draw_figures
from ghvae_core.evaluation.metrics import MetricFailure
from ghvae_core.evaluation.page import page
from ghvae_core.evaluation.report import markdown, show, write
from ghvae_core.evaluation.scoring import REAL, Scores
from ghvae_core.evaluation.sensitivity import Sensitivity
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation, facts_of, ranked, summarize
from ghvae_core.evaluation.tables import models_table, notes, rows_table, sensitivity_table, steps_table
from tests.ghvae_core.evaluated import clips, evaluated_model

torch.set_num_threads(1)
CLIPS = clips(4)
ROWS = [f"{label}, {kind}" for label in ("a", "b") for kind in (MEAN, SAMPLE, SHUFFLED)] + [COPY]
ABOUT = {"seed": 7, "validation_fraction": 0.5, "n_samples": 3, "n_episodes_passed_over": 0}


def two() -> tuple[EvaluatedModel, EvaluatedModel]:
    return evaluated_model("a", n_modules=2, modules_used=1), evaluated_model("b")


def some_scores(fvd: bool = False) -> Scores:
    rows = {
        row: {
            "psnr_db": np.full((4, 3), 20.0 + i) + np.arange(4)[:, None],
            "ssim": np.random.default_rng(i).random((4, 3)),
            "lpips_alex": np.full((4, 3), 0.25),
        }
        for i, row in enumerate(ROWS)
    }
    rng = np.random.default_rng(0)
    features = {row: rng.random((4, 6), np.float32) for row in (REAL, *ROWS)} if fvd else {}
    return Scores(rows, features)


def summarized(scores: Scores) -> Evaluation:
    models = [facts_of(each, f"runs/{each.label}", "not known") for each in two()]
    return summarize(scores, CLIPS, models, ABOUT, np.random.default_rng(0))


@pytest.fixture
def evaluation() -> Evaluation:
    value = Estimate(value=81.25, standard_error=2.5)
    found = Sensitivity(
        n_windows=4,
        n_others=9,
        candidates="executed",
        median_percentile=value,
        mean_percentile=value,
        top_1_fraction=Estimate(value=0.5, standard_error=0.25),
        top_1_chance=0.1,
    )
    return summarized(some_scores()).model_copy(update={"sensitivity": {"a": found}})


def test_means_are_over_windows_and_standard_errors_over_episodes(evaluation: Evaluation) -> None:
    values = some_scores().rows[f"b, {SAMPLE}"]["ssim"]
    estimate = evaluation.rows[f"b, {SAMPLE}"]["ssim"]
    assert estimate.value == pytest.approx(values.mean())
    of_episodes = values.reshape(2, 2, 3).mean(axis=(1, 2))  # two windows each
    assert estimate.standard_error == pytest.approx(np.std(of_episodes, ddof=1) / 2**0.5)
    assert evaluation.steps[f"b, {SAMPLE}"]["ssim"][2].value == pytest.approx(values[:, 2].mean())
    assert evaluation.windows[3].rows[f"b, {SAMPLE}"]["ssim"] == pytest.approx(values[3].mean())
    protocol = {"n_windows": 4, "n_episodes": 2, "n_context": 2, "n_predicted": 3, "image_px": 64}
    assert evaluation.about == {**ABOUT, **protocol}


def test_differences_are_paired_with_copying_shuffled_actions_and_the_first_model(evaluation: Evaluation) -> None:
    a, b = f"a, {MEAN}", f"b, {MEAN}"
    pairs = [(a, COPY), (a, f"a, {SHUFFLED}"), (b, COPY), (b, f"b, {SHUFFLED}"), (b, a)]
    assert [(each.row, each.minus) for each in evaluation.differences] == pairs
    last = evaluation.differences[-1].metrics["psnr_db"]
    assert last.value == pytest.approx(3)
    assert last.standard_error == pytest.approx(0, abs=1e-12)


def test_fvd_has_a_bootstrap_error() -> None:
    evaluation = summarized(some_scores(fvd=True))
    assert list(evaluation.conventions) == ["psnr_db", "ssim", "lpips_alex", "fvd"]
    found = evaluation.rows[f"a, {MEAN}"]["fvd"]
    assert found.value > 0 and found.standard_error > 0
    assert rows_table(evaluation)[0][-1] == "FVD ↓"
    assert rows_table(evaluation)[-1][-1] == "-", "FVD has no paired differences"
    fvd = [note for note in notes(evaluation) if note.startswith("FVD: 4 real against 4 predicted videos of 5 frames")]
    assert "including the 2 context frames" in fvd[0]


def test_some_of_the_windows_can_be_reported() -> None:
    part = {row: {m: v[:2] for m, v in metrics.items()} for row, metrics in some_scores().rows.items()}
    evaluation = summarized(Scores(part))
    assert (evaluation.about["n_windows"], evaluation.about["n_episodes"]) == (2, 1)
    assert [window.name for window in evaluation.windows] == ["e0 0", "e0 1"]
    assert any(note.startswith("All windows are from one episode") for note in notes(evaluation))
    values = part[f"a, {MEAN}"]["psnr_db"].mean(axis=1)
    assert evaluation.rows[f"a, {MEAN}"]["psnr_db"].standard_error == pytest.approx(np.std(values, ddof=1) / 2**0.5)


@pytest.mark.parametrize("metric", ["lpips_alex", "psnr_db"])
def test_windows_are_ranked_by_lpips_if_computed_else_by_psnr(metric: str) -> None:
    rng = np.random.default_rng(1)
    metrics = ["psnr_db", "ssim", *(["lpips_alex"] if metric == "lpips_alex" else [])]
    scores = Scores({row: {name: rng.random((4, 3)) for name in metrics} for row in ROWS})
    values = scores.rows[f"a, {MEAN}"][metric].mean(axis=1)
    order = ranked(summarized(scores))
    assert sorted(order) == list(range(4))
    assert (np.diff(values[order] if metric == "lpips_alex" else -values[order]) >= 0).all()


def test_the_table_has_all_rows_errors_and_paired_differences(evaluation: Evaluation) -> None:
    head, *rows = rows_table(evaluation)
    assert head == ["predicted frames", "PSNR (dB) ↑", "SSIM ↑", "LPIPS (AlexNet v0.1) ↓"]
    assert [row[0] for row in rows[:7]] == ROWS
    assert rows[0][1] == "21.50 ± 1.00"
    assert rows[7][:2] == [f"a, {MEAN} - {COPY}", "-6.00 ± 0.00"]
    assert rows[-1][:2] == [f"b, {MEAN} - a, {MEAN}", "+3.00 ± 0.00"]


def test_the_steps_table_has_one_row_per_step(evaluation: Evaluation) -> None:
    head, *rows = steps_table(evaluation)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert len(head) == 1 + 3 * 5
    assert rows[0][1] == "21.50 ± 1.00"


def test_the_sensitivity_table_contains_the_chance_level(evaluation: Evaluation) -> None:
    _, row = sensitivity_table(evaluation)
    assert row == ["a", "81.2 ± 2.5", "81.2 ± 2.5", "0.500 ± 0.250", "0.100", "9 executed", "4"]


def test_the_report_has_notes_on_conventions(evaluation: Evaluation) -> None:
    text = markdown(evaluation)
    assert "Held out of training (a): not known." in text
    assert "Fraction of the folder that was evaluated: 0.5." in text
    expected = ("N = 4 windows", "11x11 Gaussian", "10 log10", "v0.1, AlexNet", "standard error", "runs/b", "Best of 3")
    for text_part in (*expected, "ties count half", "The first modules of a checkpoint", "![curves](curves.png)"):
        assert text_part in text
    assert "identical" not in text and "skipped" not in text
    assert [row[2] for row in models_table(evaluation)[1:]] == ["1", "1"]
    counted = evaluation.model_copy(update={"identical_frames": {COPY: 2}})
    assert any("counted as 100 dB: copy last context frame: 2" in note for note in notes(counted))
    skipped = evaluation.model_copy(update={"about": {**evaluation.about, "n_episodes_passed_over": 3}})
    assert any(note.endswith("too short: 3.") for note in notes(skipped))


def test_markdown_tables_are_rectangular(evaluation: Evaluation) -> None:
    tables = [block.splitlines() for block in markdown(evaluation).split("\n\n") if block.startswith("| ")]
    assert len(tables) >= 4
    for lines in tables:
        assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_page_is_self_contained_and_has_every_table_and_image(evaluation: Evaluation) -> None:
    images = dict.fromkeys(("curves.png", "filmstrip.png", "rollouts.gif", "sheet.gif"), b"image")
    html = page(evaluation, images)
    assert html.count("data:image/png;base64,") == 2 and html.count("data:image/gif;base64,") == 2
    assert "http" not in html and "<script" not in html and not re.search(r"@import|url\(", html)
    assert not re.search(r"<img(?![^>]*alt=\"[^\"]+\")", html)
    tables = (rows_table(evaluation), steps_table(evaluation), sensitivity_table(evaluation), models_table(evaluation))
    for cell in (cell for table in tables for row in table for cell in row):
        assert f">{cell}</t" in html
    assert all(note.replace("'", "&#39;").replace(">", "&gt;") in html for note in notes(evaluation))
    assert "How well does the model predict" in html and "higher is better" in html
    assert "a: by PSNR its predictions are 6.0 ± 0.0 dB worse than copying the last frame" in html
    assert (
        html.index("Held out of training (a):")
        < html.index("21.50 ± 1.00")
        < html.index("difference, window by window")
    )


def test_the_page_of_an_evaluation_without_images_and_sensitivity(evaluation: Evaluation) -> None:
    html = page(evaluation.model_copy(update={"sensitivity": {}}), {})
    assert "<img" not in html and "Action sensitivity" not in html and "21.50 ± 1.00" in html


def test_the_terminal_shows_all_rows(evaluation: Evaluation) -> None:
    file = io.StringIO()
    show(evaluation, Console(file=file, width=200))
    assert all(row in file.getvalue() for row in ROWS)
    assert "21.50 ± 1.00" in file.getvalue() and "9 executed" in file.getvalue()


def test_the_curves_have_a_panel_for_each_metric(evaluation: Evaluation) -> None:
    with Image.open(io.BytesIO(draw_curves(evaluation))) as image:
        three, height = image.size
    one = {row: {"ssim": steps["ssim"]} for row, steps in evaluation.steps.items()}
    with Image.open(io.BytesIO(draw_curves(evaluation.model_copy(update={"steps": one})))) as image:
        assert image.size == (three // 3, height)


def test_figures_show_the_best_the_median_and_the_worst_window(evaluation: Evaluation) -> None:
    images = draw_figures(two(), CLIPS, evaluation, step_s=0.2)
    with Image.open(io.BytesIO(images["filmstrip.png"])) as strip:
        image_array = np.asarray(strip)
    assert image_array.shape[0] == 3 * 6 * 130, "real, two models, copy, error and sources, three times"
    margin = image_array.shape[1] - 5 * 130
    best = image_array[:128:2, margin:-130:2].reshape(64, -1, 3)[:, :64]
    np.testing.assert_array_equal(best, CLIPS.frames[0, 0], "the first window is the best if LPIPS is equal")
    copies = image_array[3 * 130 : 3 * 130 + 128, margin:]
    np.testing.assert_array_equal(copies[:, 130 : 130 + 124], copies[:, 4 * 130 : 4 * 130 + 124])
    assert (copies[:, 130 + 124 : 130 + 128] == (255, 140, 0)).all(), "a line after the last context frame"
    for name, n_rows in (("rollouts.gif", 3), ("sheet.gif", 4)):
        with Image.open(io.BytesIO(images[name])) as gif:
            assert getattr(gif, "n_frames", 1) == 5
            assert gif.info["duration"] == 200
            assert gif.size[1] == n_rows * 130


def test_the_filmstrip_shows_where_the_pixels_of_a_model_come_from(evaluation: Evaluation) -> None:
    heights = []
    for model in (evaluated_model("a", copies=0), evaluated_model("a")):
        with Image.open(io.BytesIO(draw_figures([model], CLIPS, evaluation, step_s=0.2)["filmstrip.png"])) as strip:
            heights.append(strip.size[1])
    assert heights == [3 * 4 * 130, 3 * 5 * 130]


def test_an_unknown_step_duration_has_a_default_in_gifs(evaluation: Evaluation) -> None:
    with Image.open(io.BytesIO(draw_figures(two()[:1], CLIPS, evaluation, step_s=None)["sheet.gif"])) as gif:
        assert gif.info["duration"] == 100


def test_the_files_are_written_and_the_json_is_complete(tmp_path: Path, evaluation: Evaluation) -> None:
    folder = tmp_path / "new" / "report"
    write(folder, evaluation, {"figure.png": b"png"})
    assert list(folder.parent.iterdir()) == [folder], "no other file remains"
    assert {path.name for path in folder.iterdir()} == {"figure.png", "report.html", "evaluation.md", "evaluation.json"}
    assert (folder / "evaluation.md").read_text(encoding="utf-8") == markdown(evaluation)
    read = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert read == evaluation.model_dump(mode="json")
    assert len(read["windows"]) == 4


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, evaluation: Evaluation) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MetricFailure, match="could not be written") as caught:
        write(tmp_path / "file" / "report", evaluation, {})
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_no_partial_report(
    exists: bool, tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, folder = atomic_io._write, tmp_path / "report"
    if exists:
        folder.mkdir()

    def fill_up(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_bytes(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(atomic_io, "_write", fill_up)
        with pytest.raises(MetricFailure, match="No space left on device"):
            write(folder, evaluation, {"figure.png": b"png"})
    assert list(tmp_path.rglob("*")) == [folder] * exists
    write(folder, evaluation, {"figure.png": b"png"})
    assert len(list(folder.iterdir())) == 4
