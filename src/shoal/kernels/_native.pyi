from typing import Any, NewType

Job = NewType("Job", object)
VERSION: int

def prepare(
    op: int,
    type: int,
    out: Any,
    size: int,
    tile: int,
    sources: list[Any],
    weights: list[float],
    peaks: Any,
    /,
) -> Job: ...
def run(job: Job, /) -> None: ...
