"""`run_finetune` in two processes; the second receives SIGTERM at one step."""

from __future__ import annotations

import os
import signal

from ghvae_core.run_finetune import main
from ghvae_core.training.engine import Engine

_AT_STEP = 5


def _update(self: Engine, rate: float, step: int) -> None:
    if step == _AT_STEP and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    _original_update(self, rate, step)


if __name__ == "__main__":
    _original_update = Engine.update
    Engine.update = _update  # type: ignore[method-assign]
    main()
