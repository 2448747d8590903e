"""Import of PyTorch weights: a `.pt` or `.pth` file is read in a separate process with limited time and memory.

A PyTorch file is a pickle, and loading it can execute code. It is loaded with the restricted unpickler of torch, which
has had vulnerabilities; therefore the process that loads it is limited, and returns only a safetensors file.
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
from ghvae_foresight import module_command

_TIMEOUT_S = 600  # for the largest file from a slow disk; ours
_LARGEST_BYTES = 16 * 2**30  # of a file; a model of the paper's size with its optimizer has 7 GB; ours
_MEMORY_BYTES = 2**30  # in addition to twice the file size; ours
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
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # common keys of the state dictionary
_PREFIX = "module."  # of torch's DistributedDataParallel


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file by name; nested names are joined by dots.

    Raises:
        CheckpointError: The file is missing, damaged or too large, contains anything but tensors, numbers and text, or
            a value that is not finite. None of its code was executed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a .pt or .pth file, got none")
    size_bytes = path.stat().st_size
    if size_bytes > _LARGEST_BYTES:
        raise CheckpointError(f"{path}: expected at most {_LARGEST_BYTES} bytes, got {size_bytes}")
    with tempfile.TemporaryDirectory(prefix="torch-") as folder:
        out = Path(folder) / "weights.safetensors"
        _convert_in_process(path, out)
        return unpack_tensors(out.read_bytes(), str(path))


def load_torch_file(path: Path, model: VideoModel) -> TransferReport:
    """Load into a model, in place, the tensors of a PyTorch file that have the names and shapes of its own.

    Returns:
        The loaded and unused tensors.

    Raises:
        CheckpointError: As for `read_torch_file`; or no tensor fits. The model is unchanged.
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


def _convert_in_process(path: Path, out: Path) -> None:
    """Read the file in another process, which writes its tensors as safetensors."""
    command = [*module_command("ghvae_core.models.torch_import"), str(path.absolute()), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{path}: could not be read within {_TIMEOUT_S} s; it is damaged, or contains no weights"
        ) from None
    if done.returncode != 0 or not out.is_file():
        raise CheckpointError(f"{path}: refused: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return in one line why the other process failed, without the advice of torch to lift the restrictions."""
    found = re.search(r"GLOBAL ([\w.]+)", done.stderr)
    if "Weights only load failed" in done.stderr or "UnpicklingError" in done.stderr:
        what = f"it refers to {found[1]}" if found else "it contains more than tensors, numbers and text"
        return f"{what}; save the weights alone, best as safetensors"
    if "MemoryError" in done.stderr or "Cannot allocate memory" in done.stderr or done.returncode < 0:
        return "it needs more memory or time than a file of its size should; it is damaged or malicious"
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return f"not an intact PyTorch file ({lines[-1][:200]}); use another copy"


def _convert(path: Path, out: Path) -> None:
    """Convert a PyTorch file under resource limits; runs in a separate process."""
    size_bytes = path.stat().st_size
    memory_bytes = _virtual_bytes() + _MEMORY_BYTES + 2 * size_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (_TIMEOUT_S, _TIMEOUT_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size_bytes + 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Only zip files, the newer format of torch, can be mapped.
    tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    tensors = dict(flatten(tree))
    invalid = [f"{name} of {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if invalid:
        raise ValueError(f"expected common number types, got {invalid[0]}")
    if not tensors or len(tensors) > _MOST_TENSORS:
        raise ValueError(f"expected 1 to {_MOST_TENSORS} tensors, got {len(tensors)}")
    safetensors.torch.save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)


def flatten(tree: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested mappings and sequences by name, without common wrappers."""
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
    """Return the address space in use, which counts towards the limit."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
