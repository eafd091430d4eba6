"""Data: named sources, decoded or streamed, cut into batches that are functions of the step."""

from nn_lib.data.sources import DataConfig, DataSet, load

__all__ = ["DataConfig", "DataSet", "load"]
