"""Ten trivial clients under Flower's FedAvg: the app that its SuperLink and SuperNodes run.

A client returns the array that it was given. The server writes down when each round begins.
"""

import time
from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()  # found by name in the source
server = ServerApp()


@client.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Send back what came, as a NumPy array."""
    given = {name: array.numpy() for name, array in message.content["arrays"].items()}
    trained = ArrayRecord({name: Array(value) for name, value in given.items()})
    told = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": trained, "metrics": told}), reply_to=message)


class Timed(FedAvg):  # type: ignore[misc]
    """FedAvg that notes when its rounds begin."""

    path = ""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg's, once all nodes are there."""
        while len(list(grid.get_node_ids())) < self.min_available_nodes:
            time.sleep(0.1)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{time.perf_counter()}\n")
        made: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return made


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Some rounds, and the time when the last one has ended."""
    values, rounds = int(context.run_config["values"]), int(context.run_config["rounds"])
    clients = int(context.run_config["clients"])
    strategy = Timed(
        fraction_train=1.0, fraction_evaluate=0.0,
        min_train_nodes=clients, min_available_nodes=clients,
    )  # fmt: skip
    strategy.path = str(context.run_config["times"])
    start = ArrayRecord({"x": Array(np.zeros(values, np.float32))})
    strategy.start(grid, start, num_rounds=rounds)
    with open(strategy.path, "a", encoding="utf-8") as file:
        file.write(f"{time.perf_counter()}\nend\n")
