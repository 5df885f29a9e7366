"""A client that runs an experiment's own trainer and upload pipeline on local data.

The experiment comes from the server as TOML. Its names reach Shoal's own parts, and only those
packages and files of this machine that its owner trusts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from shoal import config
from shoal.client import fresh, work
from shoal.core import Algorithm, Examples
from shoal.errors import ConfigError, ShoalError
from shoal.experiment import Experiment
from shoal.messages import Payload
from shoal.names import trusting
from shoal.net.client import Client, Work
from shoal.net.keepsake import Keepsake, home
from shoal.net.labor import FAILURES, labor
from shoal.net.sources import load


@dataclass(frozen=True)
class Described:
    """What a client needs of an experiment.

    Attributes:
        algorithm: not bound to the model yet.
        model: the function that makes it; None where the trainer knows.
        seed: of the run.
        table: all of it, as plain tables.
    """

    algorithm: Algorithm
    model: Callable[[], Any] | None
    seed: int
    table: Mapping[str, Any]


def described(toml: str, trust: Sequence[str] = ()) -> Described:
    """The parts of an experiment that came from a server.

    Args:
        toml: as it came.
        trust: packages and files that it may name beside Shoal's own parts.

    Raises:
        ConfigError: if the parts cannot be made here, or are not trusted.
    """
    table = config.loads(toml, "the server's experiment")
    hints = get_type_hints(Experiment)
    with trusting(trust):
        algorithm = config.decode(hints["algorithm"], table["algorithm"], "algorithm")
        model = config.decode(hints["model"], table.get("model", config.NONE), "model")
    return Described(algorithm, model, int(table.get("seed", 0)), table)


class Worker:
    """Trains for a client that has joined.

    Args:
        client: that has joined.
        source: where its data are, see `sources.load`.
        trust: packages and files that the experiment may name beside Shoal's own parts.
        state: directory for what the client keeps between tasks; None for this user's place.

    Raises:
        ConfigError: if the experiment's parts cannot be made here.
        DataError: if there are no data.
    """

    def __init__(
        self, client: Client, source: str, trust: Sequence[str] = (), state: Path | None = None
    ) -> None:
        self.client = client
        made = described(client.experiment, trust)
        self.seed = made.seed
        with trusting(trust):
            self.data: Examples = load(source, made.table, self.seed)
        trainer = _bound(made.algorithm, made.model)
        self.algorithm = replace(made.algorithm, trainer=trainer)
        self._kept = Keepsake(client, state or home())

    def run(
        self, turn: Callable[[], AbstractContextManager[None]] = nullcontext,
        failures: int = FAILURES,
    ) -> str:  # fmt: skip
        """Work until the run is over; why it is. See `labor`."""
        settled = self._kept.settled
        over = labor(self.client, self._train, settled=settled, turn=turn, failures=failures)
        if over:
            self._kept.over()
        return over

    def _train(self, given: Work) -> Payload:
        state = self._kept.state(lambda: fresh(self.algorithm, given.model))
        payload, after = work(self.algorithm, given.task, given.model, self.data, state, self.seed)
        self._kept.keep(given.task.id, after)
        return payload


def _bound(algorithm: Algorithm, model: Any) -> Any:
    """The trainer for the experiment's model.

    Raises:
        ConfigError: if the model cannot be made here.
    """
    try:
        trainer = algorithm.trainer.bind(model)
        trainer.initial(0)
    except ShoalError:
        raise
    except Exception as error:  # whatever the function that makes the model raises
        problem = f"cannot be built here: {type(error).__name__}: {error}"
        raise ConfigError("model", problem) from error
    return trainer
