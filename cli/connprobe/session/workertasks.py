"""What each worker of a run is told: its share of the plan, and how to speak."""

from socket import AF_INET, AF_INET6

from connprobe.engine.task import Task, TlsTask
from connprobe.model import HoldPlan, HoldRequest, Target
from connprobe.session.target import host_header, sockaddr

# io_uring opens a connection for a fifth less CPU, and takes half a megabyte of each process. Of more, which
# somebody asked for, memory counts more.
MOST_RINGS = 8


def worker_tasks(
    request: HoldRequest, plan: HoldPlan, target: Target, authority: str | None = None
) -> list[Task]:
    """In the order of the plan's shards. authority: PEM file to trust where the request names none."""
    workers = plan.workers
    interval = workers / request.rate_per_s if request.rate_per_s else 0.0
    tls = tls_task(request, target, authority)
    return [
        Task(
            share=shard.count,
            goal=shard.count,
            family=int(AF_INET6 if target.family == "ipv6" else AF_INET),
            target=sockaddr(target),
            sources=tuple((s.address, s.count, s.first_port, s.ports) for s in shard.sources),
            protocol=request.protocol,
            http_mode=request.http_mode,
            host=host_header(target),
            path=request.path,
            headers=request.headers,
            concurrency=max(
                1, request.concurrency // workers + (shard.index < request.concurrency % workers)
            ),
            interval_s=interval,
            delay_s=interval * shard.index / workers,
            timeout_s=request.timeout_s,
            ping_s=request.ping_s or 0.0,
            reconnect_attempts=request.reconnect_attempts if request.reconnect else 0,
            tls=tuple(tls) if tls else None,
            bursts=(plan.worker_processes or workers) <= MOST_RINGS,
        )
        for shard in plan.shards
    ]


def tls_task(request: HoldRequest, target: Target, authority: str | None = None) -> TlsTask | None:
    tls = request.tls
    if tls is None:
        return None
    return TlsTask(tls.ca or authority, not tls.insecure, tls.server_name or target.host, tls.resume)
