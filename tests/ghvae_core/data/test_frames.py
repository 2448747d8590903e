from __future__ import annotations

import numpy as np
import pytest

from ghvae_core.data.frames import Frames, end_to_end

PARTS = [np.random.default_rng(n).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (3, 0, 1, 5)]
WHOLE = np.concatenate(PARTS)


def test_frames_of_many_files_are_as_one_array() -> None:
    frames = Frames(PARTS)
    assert len(frames) == 9 and frames.shape == WHOLE.shape
    rows = np.random.default_rng(0).integers(0, 9, (5, 7))
    for index in (rows, rows[0], rows[:, :0], slice(2, 7), slice(None), slice(-2, None), slice(20, 30)):
        np.testing.assert_array_equal(frames[index], WHOLE[index])


@pytest.mark.parametrize("row", [-1, 9])
def test_a_row_that_is_not_there_is_an_error(row: int) -> None:
    with pytest.raises(IndexError, match="rows from 0 to 8"):
        Frames(PARTS)[np.array([0, row])]


def test_a_single_array_stays_what_it_is() -> None:
    assert end_to_end([PARTS[1], PARTS[0]]) is PARTS[0]
    assert end_to_end([PARTS[1]]) is PARTS[1]
    assert isinstance(end_to_end(PARTS), Frames)
