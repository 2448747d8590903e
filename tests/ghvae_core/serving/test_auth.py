"""Keys in a folder: what is made, what is let in, and what is refused before anything changes."""

import stat
from pathlib import Path

import pytest

from ghvae_core.serving import auth
from ghvae_core.serving.auth import KeysError


def test_a_pair_is_for_its_owner_alone(tmp_path: Path) -> None:
    public = auth.create(tmp_path / "own", "lab7")
    pair = auth.own(tmp_path / "own")
    assert public == tmp_path / "own/lab7.key" and pair.public != pair.secret
    assert pair.secret not in public.read_bytes() and pair.public in public.read_bytes()
    assert stat.S_IMODE((tmp_path / "own/lab7.key_secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_a_second_pair_and_odd_names_are_refused(tmp_path: Path) -> None:
    auth.create(tmp_path, "lab7")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeysError, match="no pair of keys yet, got lab7"):
        auth.create(tmp_path, "lab8")
    for name in ("", "../lab", "a b", "-x", "x" * 65):
        with pytest.raises(KeysError, match="a machine's name"):
            auth.create(tmp_path / "other", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_machines_are_let_in_and_shut_out(tmp_path: Path) -> None:
    auth.create(tmp_path / "server", "server")
    public = auth.create(tmp_path / "lab7", "lab7")
    before = auth.state(tmp_path / "server")
    assert auth.allow(tmp_path / "server", public) == "lab7"
    assert auth.allowed(tmp_path / "server") == {auth.own(tmp_path / "lab7").public: "lab7"}
    assert auth.state(tmp_path / "server") != before
    assert auth.allow(tmp_path / "server", public) == "lab7"  # twice is once
    auth.revoke(tmp_path / "server", "lab7")
    assert auth.allowed(tmp_path / "server") == {} and auth.state(tmp_path / "server") == before
    with pytest.raises(KeysError, match=r"lab7: expected a machine that is let in \(none\)"):
        auth.revoke(tmp_path / "server", "lab7")


def test_a_name_is_not_taken_over_by_another_key(tmp_path: Path) -> None:
    first, second = auth.create(tmp_path / "a", "lab7"), auth.create(tmp_path / "b", "lab7")
    auth.create(tmp_path / "server", "server")
    auth.allow(tmp_path / "server", first)
    with pytest.raises(KeysError, match="revoke it first"):
        auth.allow(tmp_path / "server", second)
    assert list(auth.allowed(tmp_path / "server")) == [auth.own(tmp_path / "a").public]


def test_secret_halves_and_other_files_are_not_let_in(tmp_path: Path) -> None:
    auth.create(tmp_path / "server", "server")
    auth.create(tmp_path / "a", "lab7")
    (tmp_path / "noise.key").write_bytes(b"\xff\x00 what")
    (tmp_path / "short.key").write_text('public-key = "abc"\n')
    for path, words in (
        (tmp_path / "a/lab7.key_secret", "belongs on its own machine"),
        (tmp_path / "noise.key", "as run_keys writes it"),
        (tmp_path / "short.key", "40 characters"),
        (tmp_path / "none.key", "none.key"),
    ):
        with pytest.raises(KeysError, match=words):
            auth.allow(tmp_path / "server", path)
    assert not (tmp_path / "server/allowed").exists()


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    auth.create(tmp_path, "server")
    (tmp_path / "server.key_secret").chmod(0o640)
    with pytest.raises(KeysError, match="only its owner can read"):
        auth.own(tmp_path)


def test_missing_keys_are_told_with_the_way_to_them(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="run_keys new"):
        auth.own(tmp_path)
    with pytest.raises(KeysError, match="copy it from the folder of the server"):
        auth.servers(tmp_path)
