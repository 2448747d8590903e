import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ghvae_core.models.checkpoint import load
from ghvae_core.predictor import DeadlineError, MismatchError, PredictorError
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.launch import PrivateServer, private_server
from ghvae_core.serving.local import InProcessPredictor
from tests.ghvae_core.serving.small_model import small_checkpoint, small_request
from tests.patience import patience

REQUEST = small_request()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[PrivateServer]:
    with private_server(checkpoint, "cpu", threads=1) as running:
        yield running


def test_the_server_predicts_as_the_model_in_this_process(server: PrivateServer, checkpoint: Path) -> None:
    local = InProcessPredictor(load(checkpoint), REQUEST.cost)
    client = ServerClient(server.address, REQUEST.cost)
    arguments = (REQUEST.context, REQUEST.candidates, REQUEST.goal, REQUEST.n_videos)
    in_process, served = local.predict(*arguments), client.predict(*arguments)
    client.close()
    assert client.spec.checkpoint == local.spec.checkpoint
    np.testing.assert_allclose(served.costs, in_process.costs, rtol=1e-4)
    np.testing.assert_array_equal(served.best, in_process.best)
    assert np.abs(served.videos.astype(int) - in_process.videos).max() <= 1
    assert {"prepare", "rollout", "queue", "round_trip"} <= set(served.timing_s)


def test_each_of_many_clients_receives_its_own_predictions(server: PrivateServer) -> None:
    mismatches: list[str] = []

    def plan(seed: int) -> None:
        rng = np.random.default_rng(seed)
        client = ServerClient(server.address, REQUEST.cost, timeout_s=60)
        for _ in range(5):
            n = int(rng.integers(1, 9))
            candidates = REQUEST.candidates[rng.integers(0, len(REQUEST.candidates), n)]
            got = client.predict(REQUEST.context, candidates, REQUEST.goal, 1)
            if not np.allclose(got.costs, expected[_rows(candidates)], rtol=1e-4):
                mismatches.append(f"client {seed}")
        client.close()

    def _rows(candidates: np.ndarray) -> list[int]:
        return [next(i for i, row in enumerate(REQUEST.candidates) if (row == one).all()) for one in candidates]

    reference = ServerClient(server.address, REQUEST.cost)
    expected = reference.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1).costs
    reference.close()
    threads = [threading.Thread(target=plan, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mismatches == []


def test_only_the_owner_can_open_the_socket(server: PrivateServer) -> None:
    path = Path(server.address.removeprefix("ipc://"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_leaving_the_block_stops_the_server_and_removes_its_folder(checkpoint: Path) -> None:
    with private_server(checkpoint, "cpu", threads=1) as server:
        folder = Path(server.address.removeprefix("ipc://")).parent
        assert psutil.pid_exists(server.pid) and folder.is_dir()
    assert not psutil.pid_exists(server.pid)
    assert not folder.exists()


def test_a_server_killed_during_a_request_raises_within_the_timeout(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with private_server(checkpoint, "cpu", threads=1) as server:
        client = ServerClient(server.address, REQUEST.cost, timeout_s=0.5)
        os.kill(server.pid, signal.SIGSTOP)  # it receives the request and does not reply
        timer = threading.Timer(0.1, os.kill, (server.pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(DeadlineError, match="it may have stopped"):
            client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1)
        client.close()
        timer.join()
    assert "the private server had ended with -9" in caplog.text


def test_the_server_does_not_outlive_a_killed_parent(checkpoint: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from ghvae_core.serving.launch import private_server\n"
        "with private_server(Path(sys.argv[1]), 'cpu', 1) as server:\n"
        "    print(server.address, server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(checkpoint)], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    address, pid = done.stdout.decode().split()
    shutil.rmtree(Path(address.removeprefix("ipc://")).parent)  # the only folder that a killed parent leaves
    _wait_for_exit(int(pid))


def _wait_for_exit(pid: int) -> None:
    end_s = time.monotonic() + patience(60)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end_s, "the server is still running"
        time.sleep(0.05)


@pytest.mark.parametrize(("code", "kind"), [(2, MismatchError), (1, PredictorError)])
def test_the_reason_why_a_server_does_not_start_is_reported(
    code: int, kind: type[PredictorError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "error: nothing at $5" >&2\nexit {code}\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with (
        pytest.raises(PredictorError, match=r"the private server did not start: nothing at .*nowhere") as caught,
        private_server(tmp_path / "nowhere", "cpu", threads=1),
    ):
        raise AssertionError("never ready")
    assert type(caught.value) is kind
