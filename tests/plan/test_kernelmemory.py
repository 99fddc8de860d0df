"""The arithmetic of slabs: packing, merged names, what belongs to connections and what grew besides."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.kernelmemory import OF_A_SOCKET, KernelMemory, Slab, kernel_figures, reconcile

PAGE = 4096
EMPTY = {
    "TCP": Slab(10, 13, 8, 1),
    "filp": Slab(1000, 21, 1, 50),
    "dentry": Slab(100_000, 21, 1, 5000),
    "anon_vma_chain": Slab(640, 64, 1, 10),
    "radix_tree_node": Slab(1400, 14, 2, 100),
}
MERGED = {"anon_vma_chain": ("anon_vma_chain", "eventpoll_pwq", "fs_cache")}


def reading(slabs: dict[str, Slab] | None = None, **changes: Any) -> KernelMemory:
    nothing = KernelMemory(PAGE, {}, slabs, {}, None, None, None)
    return nothing._replace(**changes)


def more(**objects: int) -> dict[str, Slab]:
    """EMPTY with so many more objects in full slabs of their own."""
    grown = dict(EMPTY)
    for name, number in objects.items():
        slab = EMPTY[name]
        slabs = -(-number // slab.objects_per_slab)
        grown[name] = slab._replace(active=slab.active + number, slabs=slab.slabs + slabs)
    return grown


def test_an_object_costs_its_share_of_the_slabs_pages() -> None:
    figures = kernel_figures(reading(EMPTY), reading(more(TCP=2600)), 1300, 2)
    assert figures is not None
    assert figures.slabs == {"TCP": pytest.approx(2 * 8 * PAGE / 13)}
    assert figures.objects_per_connection == {"TCP": 2.0}
    assert figures.bytes_per_connection == pytest.approx(2 * 8 * PAGE / 13)
    assert (figures.complete, figures.other_growth_bytes, figures.ends) == (True, 0, 2)


def test_one_end_here_takes_one_socket() -> None:
    figures = kernel_figures(reading(EMPTY), reading(more(TCP=2600)), 2600, 1)
    assert figures is not None
    assert figures.objects_per_connection == {"TCP": 1.0}
    assert figures.complete


def test_a_merged_slab_is_known_by_its_other_names() -> None:
    after = reading(more(TCP=2600, anon_vma_chain=2600), names=MERGED)
    figures = kernel_figures(reading(EMPTY), after, 1300, 2)
    assert figures is not None
    assert figures.slabs["eventpoll_pwq"] == pytest.approx(2 * 64)
    unresolved = after._replace(names=None, reason="/sys/kernel/slab cannot be listed")
    figures = kernel_figures(reading(EMPTY), unresolved, 1300, 2)
    assert figures is not None
    assert (figures.complete, figures.reason) == (False, "/sys/kernel/slab cannot be listed")
    assert figures.other_slabs_bytes["anon_vma_chain"] == 41 * PAGE


def test_what_connections_cannot_have_taken_grew_besides() -> None:
    after = reading(more(TCP=2600, dentry=21_000, radix_tree_node=1400))
    figures = kernel_figures(reading(EMPTY), after, 1300, 2)
    assert figures is not None
    assert figures.objects_per_connection == {"TCP": 2.0, "dentry": 2.0}
    assert figures.other_slabs_bytes == {
        "radix_tree_node": 100 * 2 * PAGE,
        "dentry": 1000 * PAGE - round(2600 * PAGE / 21),
    }
    assert figures.other_growth_bytes == sum(figures.other_slabs_bytes.values())


def test_room_in_slabs_that_were_there_is_no_discount() -> None:
    """Objects that found place in old slabs cost as much; that no page was taken for them is other growth."""
    roomy = EMPTY | {"TCP": Slab(10, 13, 8, 101)}
    figures = kernel_figures(reading(roomy), reading(roomy | {"TCP": Slab(1310, 13, 8, 101)}), 650, 2)
    assert figures is not None
    assert figures.slabs["TCP"] == pytest.approx(2 * 8 * PAGE / 13)
    assert figures.other_growth_bytes == -100 * 8 * PAGE


def test_fewer_sockets_than_connections_is_said() -> None:
    figures = kernel_figures(reading(EMPTY), reading(more(TCP=2000)), 1300, 2)
    assert figures is not None
    assert not figures.complete
    assert figures.reason == "2,000 TCP sockets were added where 2,600 were expected: others went meanwhile"


def test_without_slabinfo_the_growth_of_all_slabs_is_left() -> None:
    before = reading(meminfo={"Slab": 100 << 20}, reason="/proc/slabinfo may not be read", fix="run as root")
    after = before._replace(meminfo={"Slab": 100 << 20 | 730_000})
    figures = kernel_figures(before, after, 100, 2)
    assert figures is not None
    assert figures.bytes_per_connection == 7300
    assert (figures.source, figures.complete, figures.fix) == ("Slab of /proc/meminfo", False, "run as root")
    assert "approximate" in str(figures.reason)
    assert "may not be read" in str(figures.reason)
    assert kernel_figures(reading(), reading(), 100, 2) is None


def test_no_connections_no_figures() -> None:
    assert kernel_figures(reading(EMPTY), reading(more(TCP=13)), 0, 2) is None


def test_many_small_growths_are_summed() -> None:
    slabs = {f"slab-{number}": Slab(1, 1, 1, number) for number in range(1, 98)}
    figures = kernel_figures(reading({}), reading(slabs), 1, 1)
    assert figures is not None
    assert len(figures.other_slabs_bytes) == 13
    assert sum(figures.other_slabs_bytes.values()) == figures.other_growth_bytes == sum(range(1, 98)) * PAGE


slab = st.builds(Slab, st.integers(0, 10**7), st.integers(0, 100), st.integers(1, 8), st.integers(0, 10**6))
books = st.dictionaries(st.sampled_from([*OF_A_SOCKET, "radix_tree_node", "kmalloc-64"]), slab)


@given(books, books, st.integers(1, 10**6), st.sampled_from((1, 2)))
def test_all_page_growth_is_in_one_place_or_the_other(
    early: dict[str, Slab], late: dict[str, Slab], connections: int, ends: Any
) -> None:
    figures = kernel_figures(reading(early), reading(late), connections, ends)
    assert figures is not None
    assert figures.other_growth_bytes is not None
    assert all(value > 0 for value in figures.slabs.values())
    allowed = {name: number * ends for name, number in OF_A_SOCKET.items()}
    assert all(number <= allowed[name] for name, number in figures.objects_per_connection.items())
    # A slab that is gone from the later reading has the shape that it had before.
    pages = sum(
        (late[name].slabs if name in late else 0) * (late.get(name) or early[name]).pages_per_slab
        - (early[name].slabs if name in early else 0) * (late.get(name) or early[name]).pages_per_slab
        for name in {*early, *late}
    )
    ours = figures.bytes_per_connection * connections
    assert ours + figures.other_growth_bytes == pytest.approx(pages * PAGE, abs=len(OF_A_SOCKET), rel=1e-9)


def machine(available: int, **changes: int) -> KernelMemory:
    names = {"file": "Active(file)", "anon": "AnonPages"}
    told = {names.get(name, name): value for name, value in changes.items()}
    zero = dict.fromkeys(("Slab", "SReclaimable", "AnonPages", "Active(file)", "Inactive(file)"), 0)
    return reading(meminfo=zero | {"MemAvailable": available} | told, percpu_free_bytes=0, low_bytes=100)


def test_the_fall_of_available_memory_is_explained() -> None:
    # 7,000 B of slabs, 2,000 of them reclaimable and so still "available" but for what the watermark keeps;
    # 500 B of processes; page cache grows by 3,000 B, which changes nothing; 77 B nobody accounts for.
    before = machine(100_000, Slab=1000, SReclaimable=1000, anon=50, file=1000)
    after = machine(94_423, Slab=8000, SReclaimable=3000, anon=550, file=4000)
    found = reconcile(before, after)
    assert found is not None
    assert (found.fall_bytes, found.kernel_bytes, found.user_bytes) == (5577, 7000, 500)
    assert (found.counted_available_bytes, found.unexplained_bytes) == (2000, 77)


def test_below_the_watermark_half_of_what_is_reclaimable_counts() -> None:
    found = reconcile(machine(1000), machine(1000 - 50, Slab=100, SReclaimable=100))
    assert found is not None
    assert (found.counted_available_bytes, found.unexplained_bytes) == (50, 0)


def test_what_cpus_keep_for_themselves_is_neither_free_nor_lost() -> None:
    before, after = machine(10_000), machine(9_000)._replace(percpu_free_bytes=1000)
    found = reconcile(before, after)
    assert found is not None
    assert (found.kept_by_cpus_bytes, found.unexplained_bytes) == (1000, 0)


def test_a_file_that_is_missing_leaves_nothing_to_reconcile() -> None:
    assert reconcile(machine(1), machine(1)._replace(low_bytes=None)) is None
    assert reconcile(reading(), machine(1)) is None
