"""Looking into models: what they hold and take, and where a gradient goes."""

from nn_lib.analysis.capture import capture
from nn_lib.analysis.summary import Row, Summary, summarize

__all__ = ["Row", "Summary", "capture", "summarize"]
