"""A client of a served run whose training is a Flower app's: `shoal join URL --flower app:app`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from shoal.client import ClientState
from shoal.errors import ConfigError
from shoal.flower.apps import App
from shoal.flower.uploads import through, unfit
from shoal.messages import Payload
from shoal.net.client import Client, Work
from shoal.net.keepsake import Keepsake, home
from shoal.net.labor import FAILURES, labor
from shoal.net.worker import described


class FlowerWorker:
    """Works for a client that has joined.

    Args:
        client: that has joined.
        app: that trains, on data of its own.
        trust: packages and files that the experiment may name beside Shoal's own parts.
        state: directory for what the client keeps between tasks; None for this user's place.

    Raises:
        ConfigError: if the experiment's algorithm cannot be made here.
    """

    def __init__(
        self, client: Client, app: App, trust: Sequence[str] = (), state: Path | None = None
    ) -> None:
        self.client, self._app = client, app
        made = described(client.experiment, trust)
        self._algorithm, self._seed = made.algorithm, made.seed
        self._kept = Keepsake(client, state or home())

    def run(
        self, turn: Callable[[], AbstractContextManager[None]] = nullcontext,
        failures: int = FAILURES,
    ) -> str:  # fmt: skip
        """Work until the run is over; why it is. See `labor`.

        Raises:
            ConfigError: if the algorithm needs what no Flower app can do.
        """
        settled = self._kept.settled
        over = labor(self.client, self._train, settled=settled, turn=turn, failures=failures)
        if over:
            self._kept.over()
        return over

    def _train(self, work: Work) -> Payload:
        problem = unfit(self._algorithm, work.model)
        if problem:
            raise ConfigError("algorithm", problem)
        upload = self._algorithm.upload
        state = self._kept.state(lambda: ClientState(None, upload.init(work.model)))
        payload = self._app.answer(work.task, work.model)
        known = (self._algorithm, work.task, work.model)
        payload, after = through(*known, payload, state.upload, self._seed)
        self._kept.keep(work.task.id, ClientState(None, after))
        return payload
