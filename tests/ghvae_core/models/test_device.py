import ctypes
import subprocess
import sys

import pytest
import torch

from ghvae_core.models.device import DeviceError, find_device


@pytest.mark.parametrize(("n", "best"), [(0, "cpu"), (2, "cuda")])
def test_only_present_devices_are_found(n: int, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    there = ["cpu", *["cuda", "cuda:0", "cuda:1"][: 1 + n if n else 0]]
    assert find_device("auto") == best
    assert [find_device(name) for name in there] == there
    for name in {"cuda", "cuda:0", "cuda:2", "mps", ""} - {*there}:
        with pytest.raises(DeviceError, match=f"--device {name}: expected auto or one of {', '.join(there)}, which"):
            find_device(name)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not the GNU C library")
def test_freed_memory_is_kept_on_the_cpu() -> None:
    code = (
        "import resource, torch; from ghvae_core.models.device import find_device\n"
        "def faults():\n"
        "    for _ in range(20): tensors = [torch.zeros(2**22) for _ in range(10)]; del tensors\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "find_device('cpu'); first = faults(); print(faults() - first)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 4096  # the pages of one of 200 tensors
