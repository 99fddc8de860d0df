"""What workers are dealt and what is left in the stock: together all that was asked for, and no more."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.stock import MOST_TICKETS, TICKET, deal_out

SHARES = st.lists(st.integers(0, 1_000_000), min_size=1, max_size=40)


@given(SHARES, st.integers(0, 100_000))
def test_all_is_dealt_or_left_and_nobody_gets_too_much(shares: list[int], more: int) -> None:
    room = max(shares) + more
    parts, tickets = deal_out(shares, room)
    assert sum(part.goal for part in parts) + sum(tickets) == sum(shares)
    assert len(tickets) <= MOST_TICKETS
    for share, part in zip(shares, parts, strict=True):
        assert share / 2 <= part.goal <= share <= part.most <= max(share, min(2 * share, room))


@given(SHARES, st.integers(0, 100_000), st.randoms(use_true_random=False))
def test_whoever_takes_them_no_ticket_is_left(shares: list[int], more: int, order: Random) -> None:
    parts, tickets = deal_out(shares, max(shares) + more)
    goals, left = [part.goal for part in parts], list(tickets)
    takers = list(range(len(shares)))
    while left and takers:
        worker = order.choice(takers)
        if goals[worker] + TICKET > parts[worker].most:
            takers.remove(worker)
        else:
            goals[worker] += left.pop(0)
    assert not left
    assert sum(goals) == sum(shares)
    assert all(goal <= part.most for goal, part in zip(goals, parts, strict=True))


def test_of_a_large_run_half_is_left() -> None:
    parts, tickets = deal_out([19_048] * 21, 19_936)
    assert {part.goal for part in parts} == {9_524}
    assert {part.most for part in parts} == {19_936}
    assert len(tickets) == -(-21 * 9_524 // TICKET)


def test_without_room_for_another_ticket_all_is_dealt() -> None:
    parts, tickets = deal_out([19_900] * 3, 19_936)
    assert (parts[0].goal, tickets) == (19_900, b"")
