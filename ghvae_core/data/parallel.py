"""Processes that read many files in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any, ClassVar, TypeVar

from configs import interruption
from configs.command import ReportedError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_WAIT_S = 3600.0  # of one wait for a result, which is repeated; ours


class DatasetError(ReportedError):
    """Episodes that cannot be trained on. Nothing was written."""

    exit_code: ClassVar[int] = 2


def map_in_processes(work: Callable[[_Item], _Result], items: Sequence[_Item], n_at_once: int = 1) -> Iterator[_Result]:
    """Yield the results in the order of the items, computed by one process per core.

    At most `n_at_once` items are computed in this process.

    Args:
        work: Can be pickled, as can its items and results.
        items: Inputs.
        n_at_once: Items that a process takes at a time.

    Raises:
        DatasetError: A process was killed.
        KeyboardInterrupt: A signal is due within `configs.interruption`; items that were not begun are dropped.
    """
    if len(items) <= n_at_once:
        for item in items:
            interruption.check()
            yield work(item)
        return
    chunks = [items[first : first + n_at_once] for first in range(0, len(items), n_at_once)]
    n_workers = min(len(os.sched_getaffinity(0)), len(chunks))
    context = get_context("spawn")
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=interruption.ignore_sigint)
    try:
        with interruption.started_without_sigint():
            results = [pool.submit(_map, work, chunk) for chunk in chunks]
        for result in results:
            yield from _wait(result)
    except BrokenProcessPool:
        raise DatasetError(
            "a process that reads episodes was killed, probably for lack of memory; free some, or use fewer episodes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _map(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    return [work(item) for item in items]


def _wait(result: Future[_Result]) -> _Result:
    while not interruption.wait_for(partial(_is_done, result), _WAIT_S):
        pass
    return result.result()


def _is_done(result: Future[Any], timeout_s: float) -> bool:
    return bool(wait([result], timeout=timeout_s).done)
