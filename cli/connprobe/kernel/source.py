"""Where compiled programs come from: kept by an earlier run, or else the compiler."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from connprobe.kernel.btf import Btf
from connprobe.kernel.probe import Rung
from connprobe.kernel.programs import Keep, Programs, decode, encode, key_of
from connprobe.kernel.spawn import Text, compile_texts


class Candidate(NamedTuple):
    """A rung that may serve, and its whole C text."""

    probe: str
    rung: Rung
    text: str


class Source:
    """reason, fix: why there are no programs where `programs` gives None."""

    def __init__(self, btf: Btf, pythons: Sequence[str], timeout_s: int, keep: Keep | None) -> None:
        self._btf, self._pythons, self._timeout_s, self._keep = btf, pythons, timeout_s, keep
        self._found: dict[str, Programs | str] = {}
        self._told: dict[str, list[str]] = {}
        self.reason = ""
        self.fix: str | None = None

    def obtain(self, candidates: Collection[Candidate]) -> None:
        """Get them all, by one run of the compiler for those that are not kept."""
        missing = {self._key(each): each for each in candidates if not self._take_kept(each)}
        if not missing:
            return
        texts = [
            Text(key, each.text, tuple({hook.program: None for hook in each.rung.hooks}))
            for key, each in missing.items()
        ]
        compiled = compile_texts(texts, self._pythons, self._timeout_s)
        self.reason, self.fix = compiled.reason, compiled.fix
        for key, answer in compiled.answers.items():
            self._found[key] = answer
            if isinstance(answer, Programs):
                self._say(key, f"compiled now by {answer.compiler}")
                self._put(key, answer)

    def programs(self, candidate: Candidate) -> Programs | str | None:
        """Those of a candidate that was asked for; why it does not compile; None: there was no compiler."""
        return self._found.get(self._key(candidate))

    def told(self, candidate: Candidate) -> str:
        """Where its programs come from, and what was wrong with any that were kept."""
        return "; ".join(self._told.get(self._key(candidate), ()))

    def _key(self, candidate: Candidate) -> str:
        return key_of(self._btf.digest, candidate.text, candidate.rung.hooks)

    def _take_kept(self, candidate: Candidate) -> bool:
        key = self._key(candidate)
        if self._keep is None:
            return False
        try:
            data = self._keep.get(key)
            if data is None:
                return False
            programs = decode(data, key)
        except (OSError, ValueError) as error:
            self._say(key, f"kept ones not used: {error}")
            return False
        self._found[key] = programs
        self._say(key, f"kept from an earlier run, compiled by {programs.compiler}")
        return True

    def _put(self, key: str, programs: Programs) -> None:
        if self._keep is None:
            return
        try:
            self._keep.put(key, encode(programs, key))
        except OSError as error:
            self._say(key, f"not kept: {error}")

    def _say(self, key: str, text: str) -> None:
        self._told.setdefault(key, []).append(text)
