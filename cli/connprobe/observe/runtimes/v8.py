"""What V8's own figures mean: which of its heap counts toward the limit, and what that limit is.

Source: src/heap/heap.cc of V8. `heap_size_limit`, which it tells, is the old generation's limit and three
semi-spaces; but the old generation alone is what it gives up for (Heap::CanExpandOldGeneration).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

MiB = 1 << 20
Bytes = Annotated[int, Meta(ge=0, le=1 << 53)]
# The young generation is emptied into the old one by a full collection; the read-only space is shared.
NOT_OLD: Final = frozenset({"new_space", "new_large_object_space", "read_only_space"})

# Heap::IsIneffectiveMarkCompact: four collections in a row that leave 80 % of the old generation in use,
# while the program gets less than 40 % of the time, end it: "Ineffective mark-compacts near heap limit".
EARLY_SHARE: Final = 0.8

# Heap::MaxReserved: two semi-spaces, and as much as one for large young objects.
SEMI_SPACES: Final = 3
# Heap::CanPromoteYoungAndExpandOldGeneration: the old generation must have room for a whole semi-space, which
# is of the smallest size by then. Where it has none, every collection is a full one, and soon the last. And
# whole pages count, of which the last of the objects and the last of the code are not full.
PAGE: Final = MiB // 4
KEPT_FREE: Final = MiB + 2 * PAGE
# Heap::YoungGenerationSizeFromOldGenerationSize, with pointers of 8 bytes.
LOW_MEMORY: Final = 256 * MiB
SEMI_SPACE_SIZES: Final = tuple(MiB << power for power in range(5))  # 1 to 16 MiB, if no flag says otherwise


class Heap(msgspec.Struct, frozen=True):
    """What heap.cjs answers. flags: of sizes, from NODE_OPTIONS, then node's arguments: the last counts.

    worker: of a cluster. thread: 0 for the main one. threads: worker threads that this one started and that
    run; None: not told.
    """

    version: Annotated[str, Meta(pattern=r"^v[0-9]{1,4}\.[0-9]{1,4}\.[!-~]{1,40}$")]
    limit: Annotated[int, Meta(ge=MiB, le=1 << 53)]
    spaces: Annotated[dict[str, Bytes], Meta(max_length=100)]
    flags: Annotated[list[str], Meta(max_length=1000)]
    worker: bool
    thread: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    threads: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None

    @property
    def live_bytes(self) -> int:
        return sum(used for space, used in self.spaces.items() if space not in NOT_OLD)

    @property
    def name(self) -> str:
        major, minor = self.version[1:].split(".")[:2]
        return f"Node {major}.{minor} (V8)"

    @property
    def capacity_bytes(self) -> int:
        return old_generation_limit(self.limit, self.flags)


def read_answer(line: bytes) -> Heap:
    """ValueError: this is not what heap.cjs answers."""
    try:
        return msgspec.json.decode(line, type=Heap)
    except msgspec.MsgspecError as error:
        raise ValueError("the answer is not the heap of a Node process") from error


def old_generation_limit(heap_size_limit: int, flags: Sequence[str]) -> int:
    """At how many bytes in the old generation V8 gives up.

    A flag that was given is believed only where it fits `heap_size_limit`. Without one it is V8's default for
    the memory of this host or cgroup, from which it derived the semi-spaces too: of their possible sizes, the
    one that fits that derivation.
    """
    given = _megabytes("max-old-space-size", flags)
    if given and _is_young(heap_size_limit - given):
        return given
    semi_space = _megabytes("max-semi-space-size", flags)
    if semi_space:
        sizes: Iterable[int] = (_power_of_two(semi_space),)
    else:
        sizes = SEMI_SPACE_SIZES
    limits = [heap_size_limit - SEMI_SPACES * size for size in sizes]
    fitting = [limit for limit in limits if limit > 0]
    if not fitting:
        return heap_size_limit
    return min(
        fitting, key=lambda limit: abs(heap_size_limit - limit - SEMI_SPACES * _default_semi_space(limit))
    )


def _default_semi_space(old_generation: int) -> int:
    size = old_generation // (256 if old_generation <= LOW_MEMORY else 128)
    return _power_of_two(min(max(size, SEMI_SPACE_SIZES[0]), SEMI_SPACE_SIZES[-1]))


def _is_young(size: int) -> bool:
    semi_space, rest = divmod(size, SEMI_SPACES)
    return not rest and semi_space > 0 and semi_space == _power_of_two(semi_space)


def _power_of_two(size: int) -> int:
    """V8 rounds semi-spaces up to it."""
    return 1 << max(size - 1, 0).bit_length()


def _megabytes(flag: str, flags: Sequence[str]) -> int | None:
    """In bytes; None where it is not among the flags. V8 takes _ for -."""
    pattern = re.compile(rf'"?--{flag.replace("-", "[-_]")}=([0-9]{{1,9}})"?')
    found = [match[1] for match in map(pattern.fullmatch, flags) if match]
    return int(found[-1]) * MiB if found else None
