"""CELLM: sparse messages of dense adapters, for language models over slow links.

Raje, Communication-efficient LLM training for federated learning, thesis, CMU-CS-24-123, 2024;
Vavekanand, Sam, CELLM, 2024, arXiv 2407.20557; the recipe is that of Kuo et al., Federated LoRA
with sparse communication (FLASC), 2024, arXiv 2406.05233 (from memory).
    down: the adapters, as sparse changes;   up: top-k of what training changed;   x <- Adam(mean)

Sparsity is a property of messages, never of what is trained: clients train all values of the
adapters that they hold. Make the module by `shoal.trainers.lora.lora`, and give the experiment
`downlink=TopK(density)` for the way down.
"""

from typing import Any

from shoal.aggregators import Mean
from shoal.algorithms.fedavg import FedAvg, schedule
from shoal.core import Aggregator, Algorithm, Trainer, Transform, chain
from shoal.transforms import Adam, Entropy, ErrorFeedback, TopK


def cellm(
    cohort: int | None = None, *, trainer: Trainer[Any], density: float = 0.25,
    feedback: bool = False, codec: Transform[Any] = chain(), rounds: FedAvg = FedAvg(),
    aggregator: Aggregator[Any] = Mean(), optimizer: Transform[Any] = Adam(lr=0.01),
) -> Algorithm:  # fmt: skip
    """FedAdam on sparse uploads of adapters.

    Args:
        cohort: clients per round; None for everyone present.
        trainer: of a module whose trainable values are the adapters.
        density: the share of the values that an upload keeps; tune it together with the rank.
        feedback: send later what was left out; for clients that take part often.
        codec: of the values that are kept, e.g. `Quantize(8)`.
    """
    sparse = chain(TopK(density), codec) if codec != chain() else TopK(density)
    upload = chain(ErrorFeedback(sparse) if feedback else sparse, Entropy())
    if density == 1 and codec == chain():
        upload = chain()
    return Algorithm(schedule(cohort, rounds), trainer, aggregator, upload, optimizer, "cellm")
