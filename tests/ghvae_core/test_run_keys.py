"""Command `run_keys`: the usual sequence of commands, and refusals."""

import json
import subprocess
import sys
from pathlib import Path

from tests.patience import patience


def run_keys(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ghvae_core.run_keys", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=False)


def test_keys_are_created_allowed_listed_and_revoked(tmp_path: Path) -> None:
    server, lab = tmp_path / "server", tmp_path / "lab7"
    assert "copy" in run_keys("new", server, "--name", "server").stdout
    assert "lab7.key to the server" in run_keys("new", lab, "--name", "lab7").stdout
    assert run_keys("allow", server, lab / "lab7.key").stdout == "lab7 is allowed\n"
    name, key = run_keys("list", server).stdout.strip().split("\t")
    assert name == "lab7" and key in (lab / "lab7.key").read_text(encoding="utf-8")
    assert run_keys("revoke", server, "lab7").stdout == "lab7 is revoked\n"
    done = run_keys("list", server)
    assert done.stdout == "" and "no machine is allowed" in done.stderr


def test_results_are_printed_as_json_on_request(tmp_path: Path) -> None:
    server, lab = tmp_path / "server", tmp_path / "lab7"
    assert json.loads(run_keys("new", server, "--name", "server", "--json").stdout) == {
        "public_key": str(server / "server.key")
    }
    run_keys("new", lab, "--name", "lab7")
    assert json.loads(run_keys("allow", server, lab / "lab7.key", "--json").stdout) == {"allowed": "lab7"}
    assert [*json.loads(run_keys("list", server, "--json").stdout)["allowed"]] == ["lab7"]
    assert json.loads(run_keys("revoke", server, "lab7", "--json").stdout) == {"revoked": "lab7"}
    assert json.loads(run_keys("list", server, "--json").stdout) == {"allowed": {}}


def test_invalid_input_is_reported_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    for arguments in (
        ("new", tmp_path, "--name", "a/b"),
        ("revoke", tmp_path, "x"),
        ("allow", tmp_path, tmp_path / "x.key"),
    ):
        done = run_keys(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
