"""Every number is handed out once, the lowest free one first."""

from hypothesis import given
from hypothesis import strategies as st

from data_collection.collection.numbers import Numbers


def test_gaps_are_filled_and_what_comes_back_goes_first() -> None:
    numbers = Numbers({0, 2}, 4)
    assert [numbers.take(), numbers.take()] == [1, 3]
    numbers.give_back(1)
    assert [numbers.take(), numbers.take(), numbers.take(), numbers.take()] == [1, 4, 5, None]


def test_what_is_given_up_is_replaced() -> None:
    numbers = Numbers(set(), 2)
    assert [numbers.take(), numbers.take(), numbers.take()] == [0, 1, None]
    numbers.give_up()
    assert [numbers.take(), numbers.take()] == [2, None]


def test_nothing_is_wanted_where_there_is_enough() -> None:
    assert Numbers({0}, -3).take() is None


@given(
    st.sets(st.integers(0, 20)),
    st.integers(0, 10),
    st.lists(st.sampled_from(["take", "back", "up", "close"]), max_size=60),
)
def test_no_number_is_used_twice(closed: set[int], count: int, moves: list[str]) -> None:
    numbers, used, out = Numbers(closed, count), set(closed), list[int]()
    made = 0
    for move in moves:
        if move == "take" and (number := numbers.take()) is not None:
            assert number not in used and number not in out
            out.append(number)
        elif move == "back" and out:
            numbers.give_back(out.pop())
        elif move == "up" and out:
            used.add(out.pop())
            numbers.give_up()
        elif move == "close" and out:
            used.add(out.pop(0))
            made += 1
    assert made + len(out) + numbers.left == count
