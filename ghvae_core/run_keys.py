"""Manage the keys of a server and of planner machines: create, allow, revoke, list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import run
from ghvae_core.serving import auth

_Folder = Annotated[Path, typer.Argument(help="Folder of this machine's keys.")]


def new(
    folder: _Folder, name: Annotated[str, typer.Option(help="Name of this machine; `server` for a server.")]
) -> None:
    """Create the key pair of this machine, once. The secret key never leaves the machine."""
    public = auth.create(folder, name)
    if name == auth.SERVER:
        print(
            f"copy {public} into the keys folder of each planner, and allow them with: run_keys allow {folder} NAME.key"
        )
    else:
        print(
            f"give {public} to the server (run_keys allow FOLDER {public.name}), and copy its server.key into {folder}"
        )


def allow(folder: _Folder, public: Annotated[Path, typer.Argument(help="Public key NAME.key of the machine.")]) -> None:
    """Allow a machine; a running server applies it at once."""
    print(f"{auth.allow(folder, public)} is allowed")


def revoke(folder: _Folder, name: Annotated[str, typer.Argument(help="Name of the machine.")]) -> None:
    """Refuse a machine from now on; a running server ignores it at once, also on existing connections."""
    auth.revoke(folder, name)
    print(f"{name} is revoked")


def list_(folder: _Folder) -> None:
    """Print the name and the public key of each allowed machine."""
    auth.load_own_pair(folder)
    for key, name in auth.load_allowed(folder).items():
        print(f"{name}\t{key.decode('ascii', 'replace')}")


SUBCOMMANDS: Mapping[str, Callable[..., None]] = {"new": new, "allow": allow, "revoke": revoke, "list": list_}


def main() -> NoReturn:
    """Run the command."""
    run(SUBCOMMANDS, "Manage the CURVE keys that authenticate planners and the server.")


if __name__ == "__main__":
    main()
