"""Reading the server of a trial at each of its stages, once it has settled, and what the readings predict."""

import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from connprobe.engine import counters
from connprobe.model import Ceiling, Stage
from connprobe.observe.ceilings import server_ceilings
from connprobe.plan.limits.prediction import Prediction, predict
from connprobe.plan.limits.settle import Settling
from connprobe.session.limits.climbing import Climbing


class Staged(Climbing):
    """unsettled: the stages whose memory did not come to rest. held: connections at the end of the ramp."""

    held = 0

    def _begin_stages(self, client_ceilings: Callable[[], Sequence[Ceiling]]) -> None:
        self._client_ceilings = client_ceilings
        self.unsettled: list[Stage] = []
        self._settled = False  # at the end of the last wait
        self.prediction: Prediction | None = None
        self.ceilings: tuple[Ceiling, ...] = ()
        self.ceilings_at = 0
        self._off_bytes = 0.0

    def _settle(self, stage: Stage) -> None:
        settling = Settling(self.asked.settle_s)
        state = None

        def over(totals: counters.Totals) -> bool:
            nonlocal state
            assert self._use is not None  # of this turn: `_go` asks whether it is gone before
            state = settling.feed(time.monotonic(), *self._use)
            return state.state != "waiting"

        self._go("start" if stage == "start" else "settle", over)
        self._settled = state is not None and state.state == "settled"
        if not self._settled:
            self.unsettled.append(stage)
        if state is not None:
            self._off_bytes = max(self._off_bytes, state.off_bytes)

    def _read(self, stage: Stage) -> None:
        reading = self._meter.reading(stage, self._taken(), self._at_s(), self._settled)
        why = self._meter.unknown
        self.seen.unknown |= {it: why[it] for it in ("kernel_bytes", "memory_bytes") if it in why}
        use = {**reading.use, **self.heap.read()}
        self.readings.append(replace(reading, use=use, others=self._others(self._alive())))

    def _read_ceilings(self, at: int) -> None:
        assert self.target is not None
        found = server_ceilings(
            self._meter,
            self.facts,
            ports=(self.target.port,),
            between_requests=self.request.between_requests,
            same_host=self.kernel.has_listeners,
            ended=self.server is not None,
        )
        if found.found or not self.ceilings:
            self.ceilings = (*found.found, *self.heap.ceilings(), *self._client_ceilings())
            self.ceilings_at = at
        self.seen.unknown |= {f"limits.{resource}": why for resource, why in found.unknown.items()}

    def _peak(self) -> None:
        """The most that was seen in the last step, and the rest as it is at its end."""
        reading = self._meter.reading("peak", self._taken(), self._at_s(), False)
        most = self._sampler.server_peak_rss_bytes
        use = {**reading.use, "rss_bytes": max(most, reading.use.get("rss_bytes", 0.0))}
        if "rss_bytes" in reading.use:
            self.readings.append(replace(reading, use=use))

    def _predict(self) -> None:
        """None of the limits is known before the ramp has been read."""
        self.readings = self.heap.told_again(self.readings)
        self.prediction = predict(
            self.readings,
            self.ceilings,
            self.held,
            at=self.ceilings_at,
            off_bytes=self._off_bytes,
            ends=self._ends,
        )
