"""Weights of others: a `.pt` or `.pth` file is opened in a process of its own, with little time and memory.

A file of torch is a pickle, and reading one can run whatever its author put into it. It is read with torch's restricted
unpickler alone, which has had holes; so the process that does it is limited, and all that it hands back is a
safetensors file.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ghvae_core.models.checkpoint_files import CheckpointError, unpack_tensors
from ghvae_core.models.transfer import TransferReport
from ghvae_core.models.video_model import VideoModel

_TIMEOUT_S = 600  # for a file of the largest size from a slow disk; ours
_LARGEST_BYTES = 16 * 2**30  # of a file; a model of the paper's size with its optimizer has 7 GB
_MEMORY_BYTES = 2**30  # beside twice the file: ours
_MOST_TENSORS = 100_000
_DTYPES = {
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.bool,
    torch.uint8,
    torch.int32,
    torch.int64,
}
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which others keep the weights
_PREFIX = "module."  # of torch's DistributedDataParallel


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a foreign file by name, nested names joined by dots.

    Raises:
        CheckpointError: It is no such file, is damaged or too large, holds anything but tensors, numbers and text, or
            a value that is not finite. Nothing in it was run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a .pt or .pth file, got none")
    size_bytes = path.stat().st_size
    if size_bytes > _LARGEST_BYTES:
        raise CheckpointError(f"{path}: expected at most {_LARGEST_BYTES} bytes, got {size_bytes}")
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        out = Path(folder) / "weights.safetensors"
        _convert_apart(path, out)
        return unpack_tensors(out.read_bytes(), str(path))


def load_torch_file(path: Path, model: VideoModel) -> TransferReport:
    """Fill a model, in place, with those tensors of a foreign file that have the name and shape of its own.

    Returns:
        What was loaded, and what was not.

    Raises:
        CheckpointError: As for `read_torch_file`; or nothing in the file fits. The model is as it was.
    """
    theirs, ours = read_torch_file(path), model.state_dict()
    fitting = {name for name, tensor in theirs.items() if name in ours and tensor.shape == ours[name].shape}
    if not fitting:
        example = [f"{name} {tuple(tensor.shape)}" for name, tensor in [*theirs.items()][:1]]
        raise CheckpointError(
            f"{path}: none of its {len(theirs)} tensors has the name and shape of one of this model's {len(ours)}; "
            f"its first is {example[0] if example else 'missing'}, ours {next(iter(ours))}"
        )
    model.load_state_dict({name: theirs[name].to(ours[name].dtype) for name in fitting}, strict=False)
    return TransferReport(
        loaded=tuple(name for name in ours if name in fitting),
        new=tuple(name for name in ours if name not in fitting),
        unused=tuple(name for name in theirs if name not in fitting),
        changed={
            name: f"was {tuple(theirs[name].shape)}, is {tuple(ours[name].shape)}: not loaded"
            for name in theirs
            if name in ours and name not in fitting
        },
    )


def _convert_apart(path: Path, out: Path) -> None:
    """Let another process read the file, and write its tensors as safetensors."""
    command = [sys.executable, "-m", "ghvae_core.models.torch_import", str(path.absolute()), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{path}: could not be read within {_TIMEOUT_S} s; it is damaged, or no weights"
        ) from None
    if done.returncode != 0 or not out.is_file():
        raise CheckpointError(f"{path}: refused: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return, in one line, why the other process failed; never torch's advice to load without restrictions."""
    found = re.search(r"GLOBAL ([\w.]+)", done.stderr)
    if "Weights only load failed" in done.stderr or "UnpicklingError" in done.stderr:
        what = f"it asks for {found[1]}" if found else "it holds more than tensors, numbers and text"
        return f"{what}; ask its author for the weights alone, best as safetensors"
    if "MemoryError" in done.stderr or "Cannot allocate memory" in done.stderr or done.returncode < 0:
        return "it needs more memory or time than a file of its size may; it is damaged, or made to do harm"
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return f"not a whole file of torch ({lines[-1][:200]}); use another copy"


def _convert(path: Path, out: Path) -> None:
    """Read a foreign file under limits that cannot be lifted again; runs in a process of its own."""
    size_bytes = path.stat().st_size
    memory_bytes = _virtual_bytes() + _MEMORY_BYTES + 2 * size_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (_TIMEOUT_S, _TIMEOUT_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size_bytes + 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Only files in torch's newer format can be mapped.
    tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    tensors = dict(flatten(tree))
    odd = [f"{name} of {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if odd:
        raise ValueError(f"expected ordinary numbers, got {odd[0]}")
    if not tensors or len(tensors) > _MOST_TENSORS:
        raise ValueError(f"expected 1 to {_MOST_TENSORS} tensors, got {len(tensors)}")
    safetensors.torch.save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)


def flatten(tree: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested mappings and sequences by name, without the wrappings that others put around."""
    while isinstance(tree, Mapping):
        inner = next((tree[name] for name in _WRAPPERS if isinstance(tree.get(name), Mapping)), None)
        if inner is None:
            break
        tree = inner
    for name, tensor in _walk(tree, ""):
        yield name.removeprefix(_PREFIX), tensor


def _walk(tree: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name.removesuffix("."), tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _walk(value, f"{name}{key}.")
    elif isinstance(tree, list | tuple):
        for place, value in enumerate(tree):
            yield from _walk(value, f"{name}{place}.")


def _virtual_bytes() -> int:
    """Return the address space that this process has already, which the limit counts too."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
