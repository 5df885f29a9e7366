"""Does a client's answer fit what it was given? Everything from a client is checked here."""

from math import isfinite

from shoal.errors import UpdateError
from shoal.messages import Payload, Task, Update
from shoal.tensors import Layout, Tensors


def check_payload(task: Task, payload: Payload, model: Tensors, now: float) -> Update:
    """The update that a payload makes, seen without its tensors.

    Raises:
        UpdateError: if names, shapes, dtypes, counts or values cannot be aggregated.
    """
    update = Update(
        task.id, task.client, task.version, payload.num_examples, payload.steps,
        now - task.dispatched_at, payload.metrics, task.kind,
    )  # fmt: skip
    if task.kind != "train":
        return update
    who = f"update {task.id} of client {task.client!r}"
    if payload.kind not in ("delta", "model"):
        raise UpdateError(f"{who}: kind {payload.kind!r} is neither 'delta' nor 'model'")
    if not (0 < payload.num_examples < 2**53 and 0 <= payload.steps < 2**53):
        raise UpdateError(f"{who}: {payload.num_examples} examples, {payload.steps} steps")
    for name, value in payload.metrics.items():
        if not isfinite(value):
            raise UpdateError(f"{who}: its metric {name!r} is {value}")
    tensors = payload.tensors
    layout = model.layout if task.part is None else model.layout.part(task.part)
    _match(tensors.layout, layout, who)
    for prefix, group in tensors.groups.items():
        if prefix not in model.groups or prefix == "private/":
            raise UpdateError(f"{who}: unexpected values under {prefix!r}")
        _match(group.layout, model.groups[prefix].layout, f"{who}, {prefix}")
    if not tensors.finite():
        raise UpdateError(f"{who}: holds NaN or infinity")
    return update


def _match(got: Layout, want: Layout, who: str) -> None:
    if got is want or got == want:
        return
    if got.dtype != want.dtype:
        raise UpdateError(f"{who}: dtype {got.dtype} where the model has {want.dtype}")
    missing, extra = set(want.names) - set(got.names), set(got.names) - set(want.names)
    if missing or extra:
        parts = [f"without {', '.join(sorted(missing))}"] if missing else []
        parts += [f"with unknown {', '.join(sorted(extra))}"] if extra else []
        raise UpdateError(f"{who}: {' and '.join(parts)}")
    for name in want.names:
        a, b = got.slices[name][1], want.slices[name][1]
        if a != b:
            raise UpdateError(f"{who}: {name} has shape {a} where the model has {b}")
    raise UpdateError(f"{who}: names in another order than the model's")
