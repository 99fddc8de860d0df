"""Whose turn it is, among threads."""

import threading
import time

import pytest

from connprobe.engine import worker
from connprobe.engine.turn import Turn
from running import eventually
from tasks import a_task

PATIENCE_S = 20


def test_a_turn_goes_to_those_who_asked_in_that_order() -> None:
    turn, order, threads = Turn(), [], []

    def ask(number: int) -> None:
        with turn:
            order.append(number)

    with turn:
        for number in range(7):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            deadline = time.monotonic() + PATIENCE_S
            while len(turn._queue) <= number:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == list(range(7))
    with turn:  # it is free again
        pass


def test_who_always_has_something_to_do_does_not_keep_it() -> None:
    turn, over, turns = Turn(), threading.Event(), [0, 0, 0]
    begin, inside = threading.Barrier(3), 0

    def work(number: int) -> None:
        nonlocal inside
        begin.wait(PATIENCE_S)
        while not over.is_set():
            with turn:
                inside += 1
                assert inside == 1
                turns[number] += 1
                if turns[number] == 199:
                    over.set()
                time.sleep(0.001)  # as a system call does: the interpreter's lock is free meanwhile
                inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert max(turns) == 199
    assert min(turns) > 99


def test_what_is_given_is_asked_for_again_behind_the_others() -> None:
    turn, order = Turn(), []

    def ask(name: str) -> None:
        with turn:
            order.append(name)

    others = [threading.Thread(target=ask, args=(name,)) for name in ("first", "second")]
    with turn:
        others[0].start()
        assert eventually(lambda: len(turn._queue) == 1)
        others[1].start()
        assert eventually(lambda: len(turn._queue) == 2)
        with turn.given:
            pass
        order.append("again")
        assert turn._taken
    assert order == ["first", "second", "again"]
    with pytest.raises(ZeroDivisionError), turn, turn.given:
        raise ZeroDivisionError
    assert not turn._taken


def test_a_worker_that_fails_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: worker.Worker) -> None:
        self.part.tell(5)
        raise ZeroDivisionError

    monkeypatch.setattr(worker.Worker, "_run", fail)
    failing = worker.Worker.__new__(worker.Worker)
    failing.task = a_task(concurrency=7)
    with pytest.raises(ZeroDivisionError):
        failing.run()
    assert not worker.TURN._taken
    together = worker.TOGETHER
    assert (together.workers, together.most, together.under_way) == (0, 0, 0)
