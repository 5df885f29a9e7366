"""What a run leaves behind and how people look at it: records, sinks, tables, reports."""

from shoal.tracking.history import Meta, Run, Summary, read, summary, versions, write_meta
from shoal.tracking.sinks import Guarded, JsonLines, Memory, Sink

# Names of classes that may need an extra, so they are imported only when they are asked for.
SINKS: dict[str, str] = {
    "jsonl": "shoal.tracking.sinks:JsonLines",
    "memory": "shoal.tracking.sinks:Memory",
    "mlflow": "shoal.tracking.mlflow:MLflow",
    "progress": "shoal.tracking.progress:Progress",
    "tensorboard": "shoal.tracking.tensorboard:TensorBoard",
    "wandb": "shoal.tracking.wandb:WandB",
}

__all__ = [
    "SINKS",
    "Guarded",
    "JsonLines",
    "Memory",
    "Meta",
    "Run",
    "Sink",
    "Summary",
    "read",
    "summary",
    "versions",
    "write_meta",
]
