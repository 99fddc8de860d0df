"""What a ramp cost this host: CPU by whom, and kernel memory. Read before the first connection, and after."""

import os
import time
from collections.abc import Sequence
from typing import Literal

from connprobe.model import KernelFigures
from connprobe.observe.client import cpu_split, reaped_user
from connprobe.observe.machine import cpu_times
from connprobe.observe.slab import read_kernel_memory
from connprobe.plan.bottleneck import CpuUse
from connprobe.plan.kernelmemory import kernel_figures


class Costs:
    """Begins when it is made. `server`: pids of the server, where it is on this host."""

    def __init__(self, server: Sequence[int]) -> None:
        self._server = server
        self._server_cpu = cpu_split(server)
        self._memory = read_kernel_memory()
        self._cpu, self._own_user = cpu_times(), os.times().user
        self._began = time.monotonic()

    def cpu(self, workers: Sequence[int], zygote: int, busy_s: float | None = None) -> CpuUse:
        """Since the beginning. Workers were forked after it, by `zygote`: those that ended count in it.

        busy_s: how long there was anything to do for workers and server, where that is known.
        """
        took = max(1e-3, time.monotonic() - self._began)
        busy_s = took if busy_s is None else min(took, max(1e-3, busy_s))
        now = cpu_times()
        server = {
            pid: (user - self._server_cpu[pid][0], system - self._server_cpu[pid][1])
            for pid, (user, system) in cpu_split(self._server).items()
            if pid in self._server_cpu
        }
        client = cpu_split(workers)
        ours = (
            sum(user for user, _ in client.values()) + reaped_user(zygote) + os.times().user - self._own_user
        )
        return CpuUse(
            ramp_s=took,
            cpus=os.cpu_count() or 1,
            idle_s=max(0.0, now.idle - self._cpu.idle),
            kernel_s=now.system + now.softirq - self._cpu.system - self._cpu.softirq,
            client_user_s=ours,
            server_user_s=sum(user for user, _ in server.values()) if server else None,
            busiest_worker=max((sum(each) for each in client.values()), default=0.0) / busy_s,
            busiest_server=max(map(sum, server.values())) / busy_s if server else None,
        )

    def kernel(self, connections: int, ends: Literal[1, 2]) -> KernelFigures | None:
        """Kernel memory of each of `connections` that are open now and were not at the beginning."""
        return kernel_figures(self._memory, read_kernel_memory(), connections, ends)
