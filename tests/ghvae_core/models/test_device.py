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
