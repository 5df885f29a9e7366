"""The client without IO: a task and a model in, a payload and the client's next state out."""

from dataclasses import dataclass
from typing import Any

from shoal.core import NOTHING, Algorithm, Context, Examples
from shoal.errors import DataError
from shoal.messages import Payload, Task
from shoal.seeds import rng
from shoal.tensors import Tensors, added, zeros


@dataclass(frozen=True)
class ClientState:
    """What a client keeps between tasks.

    Attributes:
        trainer: of the trainer, e.g. a control variate.
        upload: of the upload pipeline, e.g. the residual of error feedback.
    """

    trainer: Any
    upload: Any


def fresh(algorithm: Algorithm, model: Tensors) -> ClientState:
    """The state of a client that has not worked yet."""
    return ClientState(algorithm.trainer.init(model), algorithm.upload.init(model))


def work(
    algorithm: Algorithm,
    task: Task,
    model: Tensors,
    data: Examples,
    state: ClientState | None,
    seed: int,
) -> tuple[Payload, ClientState]:
    """Do a task.

    Its draws are named by the client and by how many tasks it had before, so the result depends
    neither on when it runs nor on where. A task with {"payload": "model"} in its config is answered
    by a model: base plus delta, after the upload pipeline, which always works on deltas.

    Raises:
        DataError: if the client has no data.
    """
    if len(data) == 0:
        raise DataError(f"client {task.client!r} has no data: leave it out of the partition")
    if state is None:
        state = fresh(algorithm, model)
    if task.kind == "evaluate":
        metrics = algorithm.trainer.evaluate(model, data)
        return Payload(zeros(model.layout.part(())), len(data), 0, metrics=metrics), state
    draws = rng(seed, "train", task.client, task.number)
    payload, trained = algorithm.trainer.train(model, data, state.trainer, task, draws)
    return finished(algorithm, task, model, payload, ClientState(trained, state.upload), seed)


def finished(
    algorithm: Algorithm,
    task: Task,
    model: Tensors,
    payload: Payload,
    state: ClientState,
    seed: int,
) -> tuple[Payload, ClientState]:
    """What a trainer's payload is once it has gone through the upload pipeline, and the state.

    Args:
        state: the trainer's new state, and the pipeline's of before.
    """
    plain = algorithm.upload is NOTHING or algorithm.upload == NOTHING
    if plain and "private/" not in payload.tensors.groups and "payload" not in task.config:
        return payload, state
    tensors, upload = payload.tensors.with_group("private/", None), state.upload
    if not plain:
        context = Context(task.client, task.version, payload.num_examples, seed, task.number)
        tensors, upload = algorithm.upload.apply(tensors, upload, context)
    kind = payload.kind
    if kind == "delta" and task.config.get("payload") == "model":
        tensors, kind = added(model, tensors), "model"
    sent = Payload(tensors, payload.num_examples, payload.steps, kind, payload.metrics)
    return sent, ClientState(state.trainer, upload)
