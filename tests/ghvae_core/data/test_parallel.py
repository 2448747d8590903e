from __future__ import annotations

import os

import pytest

from ghvae_core.data.parallel import DatasetError, map_in_processes


def _square(value: int) -> tuple[int, int]:
    return value**2, os.getpid()


def _die(value: int) -> None:
    os._exit(value)


def test_results_of_several_processes_are_in_order() -> None:
    here = list(map_in_processes(_square, range(3), 3))
    assert here == [(value**2, os.getpid()) for value in range(3)]
    there = list(map_in_processes(_square, range(4), 3))
    assert [value for value, _ in there] == [0, 1, 4, 9]
    assert os.getpid() not in {process for _, process in there}


def test_a_process_that_is_killed_is_reported() -> None:
    with pytest.raises(DatasetError, match="was killed, probably for lack of memory"):
        list(map_in_processes(_die, [1, 1]))
