"""Messages as they are named: texts and sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.engine.talk import numbered
from connprobe.errors import UsageError
from connprobe.plan.message import LARGEST, parse_message, sized


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("32B", 32), ("1kB", 1000), ("1.5KiB", 1536), ("1MiB", LARGEST)]
)
def test_sizes(text: str, size: int) -> None:
    assert len(parse_message(text)) == size


@pytest.mark.parametrize("text", ["hello", "100", "1 kB", "Grüße", "kB"])
def test_texts(text: str) -> None:
    assert parse_message(text) == text.encode()


@given(st.integers(1, 500), st.integers(0, 10**6))
def test_each_message_of_a_size_differs_from_the_one_before(size: int, number: int) -> None:
    one, next_one = numbered(sized(size), number), numbered(sized(size), number + 1)
    assert len(one) == size
    assert one != next_one
    assert one[2:] == sized(size)[2:]
    one.decode()


@pytest.mark.parametrize("text", ["", "0B", "2MiB", "x" * (LARGEST + 1), "\udcff"])
def test_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_message(text)
    assert caught.value.fix
    assert len(caught.value.message) < 200


@given(st.integers(1, 500))
def test_any_size_is_utf8_of_every_length(size: int) -> None:
    text = sized(size)
    assert len(text) == size
    if size >= 32:
        assert {len(char.encode()) for char in text.decode()} == {1, 2, 3, 4}
