from typing import Any, NewType

Job = NewType("Job", object)
VERSION: int

def prepare(
    widths: tuple[int, ...],
    biased: tuple[bool, ...],
    convs: tuple[tuple[int, int, int, int, int, bool], ...],
    height: int,
    width: int,
    activation: int,
    clip: float,
    decay: float,
    momentum: float,
    tasks: list[tuple[Any, ...]],
    /,
) -> Job: ...
def run(job: Job, /) -> None: ...
def results(job: Job, /) -> list[tuple[float, int]]: ...
