"""Tables, pictures and files of an evaluation."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ghvae_core.clips import Clips
from ghvae_core.evaluation import COPY, MEAN, ROWS, Evaluation, Scores, summarize
from ghvae_core.evaluation_report import check_folder, markdown, notes, pictures, rows_table, show, steps_table, write
from ghvae_core.ghvae import Ghvae, GhvaeConfig, ModuleConfig
from ghvae_core.metrics import MetricError, MetricFailure

torch.set_num_threads(1)


@pytest.fixture
def clips() -> Clips:
    frames = np.random.default_rng(0).integers(0, 256, (4, 5, 64, 64, 3), dtype=np.uint8)
    return Clips(frames, np.zeros((4, 4, 4), np.float32), [f"e {i}" for i in range(4)], n_context=2)


@pytest.fixture
def evaluation(clips: Clips) -> Evaluation:
    rows = {
        row: {
            "psnr_db": np.full((4, 3), 20.0 + i) + np.arange(4)[:, None],
            "ssim": np.full((4, 3), 0.5),
            "lpips_alex": np.full((4, 3), 0.25),
        }
        for i, row in enumerate(ROWS)
    }
    return summarize(
        Scores(rows), clips, {"checkpoint": "somewhere", "seed": 7, "held_out": "not known", "validation_share": 0.5}
    )


def test_the_table_has_every_row_its_error_and_the_paired_differences(evaluation: Evaluation) -> None:
    head, *rows = rows_table(evaluation)
    assert head == ["predicted frames", "PSNR (dB) ↑", "SSIM ↑", "LPIPS (AlexNet v0.1) ↓"]
    assert [row[0] for row in rows[:4]] == list(ROWS)
    assert rows[0][1:] == ["21.50 ± 0.65", "0.5000 ± 0.0000", "0.2500 ± 0.0000"]
    assert rows[4][:2] == [f"{MEAN} - {COPY}", "-3.00 ± 0.00"]
    assert len(rows) == 6


def test_the_steps_table_has_a_line_a_step(evaluation: Evaluation) -> None:
    head, *rows = steps_table(evaluation)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert len(head) == 10
    assert rows[0][1] == "21.50 ± 0.65"


def test_the_report_says_what_has_to_be_known(evaluation: Evaluation) -> None:
    text = markdown(evaluation)
    assert "Held out of training: not known. Share of the folder judged: 0.5." in text
    for words in ("N = 4 windows", "11x11 Gaussian", "10 log10", "v0.1, AlexNet", "standard error", "somewhere"):
        assert words in text
    assert "identical" not in text
    counted = evaluation.model_copy(update={"identical_frames": {COPY: 2}})
    assert any("count as 100 dB: copy last context frame: 2" in note for note in notes(counted))


def test_markdown_tables_are_rectangular(evaluation: Evaluation) -> None:
    for line in markdown(evaluation).splitlines():
        if line.startswith("|") and "±" in line:
            assert line.count("|") in (5, 11)


def test_the_terminal_shows_all_rows(evaluation: Evaluation) -> None:
    file = io.StringIO()
    show(evaluation, Console(file=file, width=200))
    assert all(row in file.getvalue() for row in ROWS)
    assert "21.50 ± 0.65" in file.getvalue()


def test_pictures_show_the_best_the_median_and_the_worst_window(clips: Clips, evaluation: Evaluation) -> None:
    torch.manual_seed(0)
    size = ModuleConfig(channels=4, latent=2, hidden=4, encoder_blocks=1, decoder_blocks=1)
    model = Ghvae(GhvaeConfig(modules=(size,), pixel_channels=4)).requires_grad_(False).eval()
    images = pictures(model, clips, evaluation, step_s=0.2)
    with Image.open(io.BytesIO(images["filmstrip.png"])) as strip:
        picture = np.asarray(strip)
    assert picture.shape[0] == 12 * 130
    margin = picture.shape[1] - 5 * 130
    best = picture[:128:2, margin:-130:2].reshape(64, -1, 3)[:, :64]
    np.testing.assert_array_equal(best, clips.frames[0, 0], "equal LPIPS: the first window is the best")
    copies = picture[2 * 130 : 2 * 130 + 128, margin:]
    np.testing.assert_array_equal(copies[:, 130 : 130 + 128], copies[:, 4 * 130 : 4 * 130 + 128])
    with Image.open(io.BytesIO(images["rollouts.gif"])) as gif:
        assert getattr(gif, "n_frames", 1) == 5
        assert gif.info["duration"] == 200


def test_the_files_are_written_and_the_json_holds_everything(tmp_path: Path, evaluation: Evaluation) -> None:
    folder = tmp_path / "new" / "report"
    write(folder, evaluation, {"picture.png": b"png"})
    assert list(folder.parent.iterdir()) == [folder], "nothing stays beside it"
    assert {path.name for path in folder.iterdir()} == {"picture.png", "evaluation.md", "evaluation.json"}
    assert (folder / "evaluation.md").read_text(encoding="utf-8") == markdown(evaluation)
    read = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert read == evaluation.model_dump(mode="json")
    assert len(read["windows"]) == 4


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, evaluation: Evaluation) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MetricFailure, match="could not be written") as caught:
        write(tmp_path / "file" / "report", evaluation, {})
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("exists", [False, True])
def test_a_disk_that_fails_leaves_nothing_half_written(
    exists: bool, tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, folder = Path.write_bytes, tmp_path / "report"
    if exists:
        folder.mkdir()

    def fill_up(path: Path, content: bytes) -> int:
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", fill_up)
        with pytest.raises(MetricFailure, match="No space left on device"):
            write(folder, evaluation, {"picture.png": b"png"})
    assert list(tmp_path.rglob("*")) == [folder] * exists
    write(folder, evaluation, {"picture.png": b"png"})
    assert len(list(folder.iterdir())) == 3


def test_only_a_new_or_empty_folder_is_taken(tmp_path: Path) -> None:
    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(MetricError, match="new or empty folder"):
            check_folder(taken)
