"""What `doctor` looks at: the capacity of each resource, and what connprobe may do here."""

from collections.abc import Mapping

from connprobe.model import Capacity, HostFacts
from connprobe.plan.capacity import Shape, capacities, ports_per_source
from connprobe.system.facts import raise_nofile, read_facts

Check = tuple[str, bool, str, str]


def examine(count: int) -> tuple[Mapping[str, tuple[Capacity, ...]], list[Check]]:
    """Tables of capacities for each way to connect, and single checks (what, well, found, fix)."""
    nofile, _ = raise_nofile(count)
    facts = read_facts()
    ports = ports_per_source(facts, None)
    tables = {
        "Embedded server on loopback (both ends here, any 127.x source)": capacities(
            facts,
            nofile,
            Shape(both_ends=True, source_addresses=1 << 20, ports_per_source=ports, embedded=True),
            count,
        ),
        "A remote server (one source address)": capacities(
            facts, nofile, Shape(both_ends=False, source_addresses=1, ports_per_source=ports), count
        ),
    }
    return tables, _checks(facts, nofile)


def _checks(facts: HostFacts, nofile: int) -> list[Check]:
    return [
        (
            "file descriptors",
            nofile >= 20_000,
            f"{nofile:,} for each process (RLIMIT_NOFILE): little means more workers",
            f"ulimit -Hn {facts.nr_open}, or LimitNOFILE={facts.nr_open} in the unit",
        ),
        (
            "source addresses",
            "CAP_NET_ADMIN" in facts.capabilities,
            "--alias can add some"
            if "CAP_NET_ADMIN" in facts.capabilities
            else "no CAP_NET_ADMIN for --alias",
            "sudo connprobe …, or add the addresses yourself and name them with --sources",
        ),
        (
            "accept queue",
            facts.somaxconn >= 4096,
            f"net.core.somaxconn is {facts.somaxconn:,}: no backlog of a server here is longer",
            "sysctl -w net.core.somaxconn=65535",
        ),
    ]
