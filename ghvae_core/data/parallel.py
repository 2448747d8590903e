"""Work on many files in as many processes as there are cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ClassVar, TypeVar

from configs.command import ReportedError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class DatasetError(ReportedError):
    """Episodes that cannot be trained on. Nothing was written."""

    exit_code: ClassVar[int] = 2


def map_in_processes(work: Callable[[_Item], _Result], items: Sequence[_Item], n_at_once: int = 1) -> Iterator[_Result]:
    """Yield the results in the order of the items; work that is not worth a process is done in this one.

    Args:
        work: Can be pickled, as its items and results.
        items: What to work on.
        n_at_once: Items that a process takes at a time.

    Raises:
        DatasetError: A process was killed.
    """
    n_workers = min(len(os.sched_getaffinity(0)), -(-len(items) // n_at_once))
    if len(items) <= n_at_once:
        yield from map(work, items)
        return
    try:
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(work, items, chunksize=n_at_once)
    except BrokenProcessPool:
        raise DatasetError(
            "a process that reads episodes was killed, probably for want of memory; free some, or take fewer episodes"
        ) from None
