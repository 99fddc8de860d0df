"""report.html: everything of a run in one file."""

from collections.abc import Iterable

from connprobe.model import PipelineRecord, RunRecord, Sample
from connprobe.report.html import pipeline, run


def render_html(record: RunRecord | PipelineRecord, samples: Iterable[Sample | None]) -> str:
    """samples: of a run of `pipeline` none are read."""
    if isinstance(record, PipelineRecord):
        return pipeline.render_pipeline_html(record)
    return run.render_html(record, samples)
