"""A Ray cluster of three nodes, one of which is killed in the middle of a round; a script."""

import numpy as np
import ray
from ray.cluster_utils import Cluster

from shoal.aggregators import Mean
from shoal.core import NOTHING
from shoal.messages import Payload
from shoal.planes import Local
from shoal.planes.ray_plane import Ray
from shoal.tensors import Tensors, equal

SIZE, UPDATES, LOST = 100_000, 12, 6  # the node dies after so many updates
NOTICED_SOON = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 2,
}


def main() -> None:
    """Print whether the committed model has the bits of the local plane's."""
    store = {"num_cpus": 1, "object_store_memory": 100 << 20}
    head = {**store, "include_dashboard": False, "_system_config": NOTICED_SOON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    others = [cluster.add_node(**store) for _ in range(2)]
    model = Tensors.of({"w": np.zeros(SIZE, np.float32)})
    plane = Ray(Mean(exact=True), NOTHING, shards=3, fan_in=3, actors=6, address=cluster.address)
    local = Local(Mean(exact=True), NOTHING)
    for each in (plane, local):
        each.start(model, 0)
    draws = np.random.default_rng(0)
    for i in range(UPDATES):
        value = model.with_flat(draws.standard_normal(SIZE).astype(np.float32))
        for each in (plane, local):
            each.put(i, Payload(value, 1, 1, "delta"))
            each.fold(i, 1.0 + i / 4, f"c{i}")
        if i == LOST:
            before = len([node for node in ray.nodes() if node["Alive"]])
            cluster.remove_node(others[0], allow_graceful=False)
    same = equal(plane.commit(), local.commit())
    after = len([node for node in ray.nodes() if node["Alive"]])
    print(f"nodes {before} -> {after}, same bits: {same}", flush=True)
    plane.close()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
