# mypy: ignore-errors
# Most of what it imports is in the peers' environments only.
"""Client updates per second of one framework on one task, in that framework's own environment.

    python local_work.py NAME TASK DATA.npz SECONDS
        prints {"rate": ..., "peak": bytes, "outside": share of the time outside of local training}

FedAvg, 100 clients, 10 a round, one local epoch in batches of 10, plain SGD. DATA holds x, y and
`ends`, where each client's examples end. What comes before the first rounds are over (starting
workers, compiling) is not timed.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

ROUND, BATCH, LR = 10, 10, 0.05


@cache
def shares(path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each client's examples."""
    with np.load(path) as file:
        x, y, ends = file["x"], file["y"], file["ends"]
    starts = [0, *ends[:-1]]
    return [(x[a:b], y[a:b]) for a, b in zip(starts, ends, strict=True)]


class Clock:
    """Told of each round that is over; says when it is enough."""

    def __init__(self, seconds: float, warm: int = 3) -> None:
        self.seconds, self.warm, self.rounds = seconds, warm, 0
        self.began = self.last = 0.0
        self.training = 0.0  # of the time, in the trainer; 0 where nobody looked

    def tick(self) -> bool:
        """Whether the time is over."""
        self.last = time.perf_counter()
        self.rounds += 1
        if self.rounds <= self.warm:
            self.began = self.last
        return self.rounds > self.warm and self.last - self.began > self.seconds

    def rate(self) -> float:
        """Client updates per second."""
        return (self.rounds - self.warm) * ROUND / (self.last - self.began)


def module(task: str) -> Any:
    """The task's model."""
    from torch import nn

    def cnn(kernel: int, first: int, second: int, hidden: int) -> Any:
        same = kernel // 2
        return nn.Sequential(
            nn.Conv2d(1, first, kernel, padding=same), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, kernel, padding=same), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(second * 49, hidden), nn.ReLU(), nn.Linear(hidden, 10),
        )  # fmt: skip

    made: dict[str, Callable[[], Any]] = {
        "logistic": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "mlp": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10)
        ),
        "image_mlp": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10)
        ),
        "cnn": lambda: cnn(3, 16, 32, 128),
        "large_cnn": lambda: cnn(5, 32, 64, 512),
    }
    return made[task]()


def local_epoch(net: Any, x: Any, y: Any, rng: np.random.Generator) -> None:
    """One epoch of plain PyTorch."""
    import torch

    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    for rows in torch.from_numpy(rng.permutation(len(x))).split(BATCH):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()


def plain(task: str, path: str, clock: Clock) -> None:
    """A hand-written loop: one model, clients one after another, torch's own threads."""
    import torch

    net = module(task)
    data = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in shares(path)]
    rng = np.random.default_rng(0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    enough = False
    while not enough:
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        chosen = rng.choice(len(data), ROUND, replace=False)
        count = sum(len(data[i][1]) for i in chosen)
        for i in chosen:
            net.load_state_dict(state)
            local_epoch(net, *data[i], rng)
            for name, value in net.state_dict().items():
                total[name] += value * (len(data[i][1]) / count)
        state = total
        enough = clock.tick()


def shoal(task: str, path: str, clock: Clock) -> None:
    """The engine: node, simulator, plane and trainer, as `shoal run` has them."""
    from functools import partial

    from shoal import fedavg
    from shoal.core import Chain, Examples
    from shoal.messages import CommitRecord
    from shoal.node import Node
    from shoal.planes import Local
    from shoal.simulation import Devices
    from shoal.trainers.torch import SGD
    from shoal.transports import Simulator, steps

    clients = {f"c{i:03d}": Examples(x, y) for i, (x, y) in enumerate(shares(path))}
    trainer = SGD(lr=LR, epochs=1, batch=BATCH, backend=os.environ.get("BACKEND", "auto"))
    algorithm = fedavg(ROUND, trainer=trainer.bind(partial(module, task)))
    model = algorithm.trainer.initial(0)
    node = Node(algorithm.coordinator, Local(algorithm.aggregator, Chain()), model)
    train_many, spent = SGD.train_many, [0.0]

    def timed(self: SGD, jobs: Any) -> Any:
        began = time.perf_counter()
        found = train_many(self, jobs)
        spent[0] += time.perf_counter() - began
        return found

    SGD.train_many = timed
    simulator = Simulator(algorithm, clients, Devices())
    for effects in steps(node, simulator):
        if any(isinstance(effect, CommitRecord) for effect in effects):
            enough = clock.tick()
            if clock.rounds == clock.warm:
                spent[0] = 0.0
            if enough:
                clock.training = spent[0]
                return


def flower(task: str, path: str, clock: Clock) -> None:
    """The simulation engine on Ray, a client app for each core."""
    # What workers unpickle must be found there by its name.
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    import local_work as work
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        import torch

        torch.set_num_threads(1)
        net = work.module(task)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = work.shares(path)[int(context.node_config["partition-id"])]
        rng = np.random.default_rng()
        work.local_epoch(net, torch.from_numpy(x), torch.from_numpy(y), rng)
        metrics = MetricRecord({"num-examples": len(y)})
        arrays = ArrayRecord(net.state_dict())
        return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    class Checked(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            answers = list(replies)
            if len(answers) != ROUND or any(answer.has_error() for answer in answers):
                print("a client failed", file=sys.stderr, flush=True)
                os._exit(1)
            return super().aggregate_train(server_round, answers)

    def told(number: int, arrays: ArrayRecord) -> MetricRecord:
        if number and clock.tick():
            print_result(clock)
            os._exit(0)
        return MetricRecord({"round": number})

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Checked(
            fraction_train=0.1, fraction_evaluate=0.0, min_train_nodes=ROUND,
            min_evaluate_nodes=0, min_available_nodes=100,
        )  # fmt: skip
        arrays = ArrayRecord(module(task).state_dict())
        strategy.start(grid, arrays, num_rounds=10**6, evaluate_fn=told)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=100, backend_config=resources)


def pfl(task: str, path: str, clock: Clock) -> None:
    """pfl-research: its simulated backend in one process."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module(task)

        def forward(self, x: Any) -> Any:
            return self.net(x)

        def loss(self, x: Any, y: Any, eval: bool = False) -> Any:
            return torch.nn.functional.cross_entropy(self(x), y)

        def metrics(self, x: Any, y: Any, eval: bool = True) -> dict[str, Any]:
            return {}

    class Told(TrainingProcessCallback):
        def after_central_iteration(
            self, aggregate_metrics: Any, model: Any, *, central_iteration: int
        ) -> Any:
            from pfl.metrics import Metrics

            return clock.tick(), Metrics()

    net = Net()
    model = PyTorchModel(
        net, local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )  # fmt: skip
    users = [
        Dataset((torch.from_numpy(x), torch.from_numpy(y)), user_id=str(i))
        for i, (x, y) in enumerate(shares(path))
    ]
    sampler = get_user_sampler("random", list(range(len(users))))
    backend = SimulatedBackend(FederatedDataset(lambda i: users[i], sampler), None)
    params = NNAlgorithmParams(
        central_num_iterations=10**6, evaluation_frequency=10**6, train_cohort_size=ROUND,
        val_cohort_size=0,
    )  # fmt: skip
    local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH)
    FederatedAveraging().run(
        params, backend, model, local, NNEvalHyperParams(local_batch_size=None), [Told()]
    )


def fedjax(task: str, path: str, clock: Clock) -> None:
    """FedJAX: federated averaging, compiled by jit for each client."""
    import jax

    jax.tree_map = jax.tree_util.tree_map  # current releases of JAX have it there only
    import fedjax
    import haiku as hk
    import jax.numpy as jnp
    from fedjax.algorithms import fed_avg

    def forward(x: Any) -> Any:
        if task in ("cnn", "large_cnn"):
            kernel, first, second, hidden = (3, 16, 32, 128) if task == "cnn" else (5, 32, 64, 512)
            x = jnp.transpose(x, (0, 2, 3, 1))
            for width in (first, second):
                x = jax.nn.relu(hk.Conv2D(width, kernel)(x))
                x = hk.MaxPool(2, 2, "VALID")(x)
            return hk.nets.MLP([hidden, 10])(x.reshape(len(x), -1))
        layers = [10] if task == "logistic" else [200, 10]
        return hk.nets.MLP(layers)(x.reshape(len(x), -1))

    net = hk.transform(forward)

    def loss(params: Any, batch: Any, rng: Any) -> Any:
        out = net.apply(params, rng, batch["x"])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(out), batch["y"][:, None], 1))

    data = [fedjax.ClientDataset({"x": x, "y": y.astype(np.int32)}) for x, y in shares(path)]
    sizes = fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH, num_epochs=1, drop_remainder=False)
    algorithm = fed_avg.federated_averaging(
        jax.grad(loss), fedjax.optimizers.sgd(LR), fedjax.optimizers.sgd(1.0), sizes
    )
    rng, draws = jax.random.PRNGKey(0), np.random.default_rng(0)
    state = algorithm.init(net.init(rng, shares(path)[0][0][:1]))
    enough = False
    while not enough:
        chosen = draws.choice(len(data), ROUND, replace=False)
        rng, *keys = jax.random.split(rng, ROUND + 1)
        each = [(str(i).encode(), data[i], key) for i, key in zip(chosen, keys, strict=True)]
        state, _ = algorithm.apply(state, each)
        jax.block_until_ready(state.params)
        enough = clock.tick()


def peak() -> int:
    """The most memory that this process had, in bytes."""
    if sys.platform == "linux":  # what getrusage tells counts the parent's memory at the fork too
        with open("/proc/self/status") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_result(clock: Clock) -> None:
    """The last line of this process."""
    outside = 1 - clock.training / (clock.last - clock.began) if clock.training else 0.0
    print(json.dumps({"rate": clock.rate(), "peak": peak(), "outside": outside}), flush=True)


CONTESTANTS: dict[str, Callable[[str, str, Clock], None]] = {
    "shoal": shoal, "plain": plain, "flower": flower, "pfl": pfl, "fedjax": fedjax,
}  # fmt: skip


def main() -> None:
    """Run one contestant."""
    name, task, path, seconds = sys.argv[1:5]
    clock = Clock(float(seconds), warm=3 if task in ("logistic", "mlp") else 1)
    CONTESTANTS[name](task, path, clock)
    print_result(clock)


if __name__ == "__main__":
    main()
