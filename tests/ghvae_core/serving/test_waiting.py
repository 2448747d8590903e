from ghvae_core.serving.protocol import Predict
from ghvae_core.serving.waiting import Asked, Waiting
from tests.ghvae_core.serving.example import SPEC, request


def _asked(client: bytes, name: bytes = b"x") -> Asked:
    return Asked(client, Predict(name, request(), SPEC.checkpoint, 1.0), 0.0)


def test_first_come_first_served_and_a_bound() -> None:
    line = Waiting(2)
    assert line.next() is None
    assert line.join(_asked(b"a")) and line.join(_asked(b"b")) and not line.join(_asked(b"c"))
    assert len(line) == 2
    first = line.next()
    assert first is not None and first.client == b"a"
    assert line.join(_asked(b"c"))
    assert [asked.client for asked in iter(line.next, None)] == [b"b", b"c"]


def test_who_leaves_and_joins_again_stands_at_the_end() -> None:
    line = Waiting(3)
    line.join(_asked(b"a", b"older"))
    line.join(_asked(b"b"))
    older = line.leave(b"a")
    assert older is not None and older.message.id == b"older"
    assert line.leave(b"nobody") is None
    line.join(_asked(b"a", b"newer"))
    assert [asked.message.id for asked in iter(line.next, None)] == [b"x", b"newer"]
