"""Manage the keys of a server and of planner machines: create, allow, revoke, list."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import print_result, run
from ghvae_core.serving import auth

_Folder = Annotated[Path, typer.Argument(help="Folder of this machine's keys.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def new(
    folder: _Folder,
    name: Annotated[str, typer.Option(help="Name of this machine; `server` for a server.")],
    as_json: _AsJson = False,
) -> None:
    """Create the key pair of this machine, once. The secret key never leaves the machine."""
    public = auth.create(folder, name)
    if name == auth.SERVER:
        text = (
            f"copy {public} into the keys folder of each planner, and allow them with: run_keys allow {folder} NAME.key"
        )
    else:
        text = (
            f"give {public} to the server (run_keys allow FOLDER {public.name}), and copy its server.key into {folder}"
        )
    _print({"public_key": str(public)}, text, as_json)


def allow(
    folder: _Folder,
    public: Annotated[Path, typer.Argument(help="Public key NAME.key of the machine.")],
    as_json: _AsJson = False,
) -> None:
    """Allow a machine; a running server applies it at once."""
    name = auth.allow(folder, public)
    _print({"allowed": name}, f"{name} is allowed", as_json)


def revoke(
    folder: _Folder, name: Annotated[str, typer.Argument(help="Name of the machine.")], as_json: _AsJson = False
) -> None:
    """Refuse a machine from now on; a running server ignores it at once, also on existing connections."""
    auth.revoke(folder, name)
    _print({"revoked": name}, f"{name} is revoked", as_json)


def list_(folder: _Folder, as_json: _AsJson = False) -> None:
    """Print the name and the public key of each allowed machine."""
    auth.load_own_pair(folder)
    keys = {name: key.decode("ascii", "replace") for key, name in auth.load_allowed(folder).items()}
    if not keys:
        print(f"no machine is allowed; allow one with: run_keys allow {folder} NAME.key", file=sys.stderr)
    _print({"allowed": keys}, "\n".join(f"{name}\t{key}" for name, key in keys.items()), as_json)


def _print(result: dict[str, object], text: str, as_json: bool) -> None:
    if as_json:
        print_result(result)
    elif text:
        print(text)


SUBCOMMANDS: Mapping[str, Callable[..., None]] = {"new": new, "allow": allow, "revoke": revoke, "list": list_}


def main() -> NoReturn:
    """Run the command."""
    run(SUBCOMMANDS, "Manage the CURVE keys that authenticate planners and the server.")


if __name__ == "__main__":
    main()
