"""Hosts as values, ordinary and absurd."""

import pytest
from hypothesis import strategies as st

from connprobe.model import HostFacts

_ROOMY = HostFacts(
    kernel="6.18",
    cpus=2,
    uid=0,
    capabilities=("CAP_NET_ADMIN",),
    memory_total_bytes=1 << 40,
    memory_available_bytes=1 << 40,
    cgroup_memory_max_bytes=None,
    cgroup_memory_current_bytes=None,
    nofile_soft=20_000,
    nofile_hard=20_000,
    nr_open=1 << 20,
    file_max=(1 << 63) - 1,
    files_in_use=1000,
    port_low=32768,
    port_high=60999,
    reserved_ports=0,
    epoll_watches=1 << 40,
    conntrack_max=None,
    conntrack_count=None,
    somaxconn=4096,
    process_limit=None,
    processes_in_use=100,
    user_processes_in_use=100,
    pid_max=1 << 22,
    cgroup_pids_max=None,
    cgroup_pids_current=None,
    addresses=(),
)


def _figures(most: int) -> st.SearchStrategy[int]:
    return st.integers(0, 100) | st.integers(0, most)


@pytest.fixture(scope="session")
def roomy() -> HostFacts:
    """A host whose ports and descriptors alone are as few as usual."""
    return _ROOMY


@pytest.fixture(scope="session")
def hosts() -> st.SearchStrategy[HostFacts]:
    """Facts of any host: nothing left of anything, more in use than there is, limits inverted."""
    optional = st.none() | _figures(1 << 40)
    return st.builds(
        HostFacts,
        kernel=st.just("6.18"),
        cpus=st.integers(1, 512),
        uid=st.just(0),
        capabilities=st.sampled_from([(), ("CAP_NET_ADMIN",)]),
        memory_total_bytes=_figures(1 << 44),
        memory_available_bytes=_figures(1 << 44),
        cgroup_memory_max_bytes=optional,
        cgroup_memory_current_bytes=optional,
        nofile_soft=_figures(1 << 20),
        nofile_hard=_figures(1 << 20),
        nr_open=_figures(1 << 30),
        file_max=_figures(1 << 63),
        files_in_use=_figures(1 << 30),
        port_low=st.integers(1, 65535),
        port_high=st.integers(1, 65535),
        reserved_ports=_figures(65535),
        epoll_watches=optional,
        conntrack_max=optional,
        conntrack_count=optional,
        somaxconn=_figures(65535),
        process_limit=st.none() | _figures(1 << 22),
        processes_in_use=_figures(1 << 22),
        user_processes_in_use=_figures(1 << 22),
        pid_max=_figures(1 << 22),
        cgroup_pids_max=st.none() | _figures(1 << 22),
        cgroup_pids_current=st.none() | _figures(1 << 22),
        addresses=st.just(()),
    )
