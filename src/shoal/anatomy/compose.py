"""What a method works together with (planes, uploads, noise, masks), as its own parts answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal import fitting
from shoal.aggregators import Median
from shoal.anatomy.facts import MODEL, Facts
from shoal.anatomy.specimens import NAMES, Specimen
from shoal.core import Algorithm, Transform, chain
from shoal.encoded import Encoded
from shoal.errors import ShoalError, UpdateError
from shoal.planes.choice import Load, Machine, decide, expected
from shoal.planes.handler import describe_rule
from shoal.tensors import Tensors
from shoal.transforms import Clip, ErrorFeedback, Half, Noise, Quantize, RandK, Sign, TopK

MACHINE = Machine(64 << 30, 8, 32 << 30)
PLANES = (
    ("local", "flat"), ("processes", "flat"), ("processes", "shards(2)"), ("processes", "tree(3)"),
    ("functions", "flat"), ("functions", "shards(2)"), ("functions", "tree(3)"), ("ray", "flat"),
    ("ray", "shards(2)"), ("ray", "tree(3)"),
)  # fmt: skip
UPLOADS: Mapping[str, Transform[Any]] = {
    "Clip": Clip(1.0),
    "Noise": chain(Clip(1.0), Noise(1.0)),
    "Half": Half(),
    "Quantize": Quantize(8),
    "TopK": ErrorFeedback(TopK(0.1)),
    "RandK": RandK(0.1, shared=True),
    "Sign": ErrorFeedback(Sign("mean")),
}
Reasons = Mapping[str, str]  # by name; empty where it works


@dataclass(frozen=True)
class Composed:
    """What works, and why not what does not.

    Attributes:
        planes: by plane and plan.
        uploads: by codec.
        aggregator: why no other aggregator may be given.
        relays: why it cannot run over relays.
        noise: what to know before noise is added for privacy.
        masks: why updates cannot be masked, so that the server sees only sums.
    """

    planes: Reasons
    uploads: Reasons
    aggregator: str
    relays: str
    noise: str
    masks: str


def composed(found: Specimen, seen: Facts) -> Composed:
    """What a method works together with."""
    algorithm = found.algorithm
    model = algorithm.trainer.initial(0)
    count = expected(algorithm.coordinator, len(NAMES))
    planes = {f"{plane} {plan}": _plane(algorithm, model, plane, plan) for plane, plan in PLANES}
    uploads = {name: _upload(found, codec, model, count) for name, codec in UPLOADS.items()}
    return Composed(
        planes, uploads, _aggregator(found), _relays(algorithm, model),
        _noise(found, seen), _masks(algorithm, model, seen),
    )  # fmt: skip


def _why(action: Any, *arguments: Any) -> str:
    """Why something is refused; empty if it is not."""
    try:
        action(*arguments)
    except ShoalError as error:
        return str(getattr(error, "problem", error))
    return ""


def _plane(algorithm: Algorithm, model: Any, plane: str, plan: str) -> str:
    count = expected(algorithm.coordinator, len(NAMES))
    load = Load.of(model, count, algorithm.aggregator)
    known = _why(fitting.check_plane, algorithm.aggregator, plane)
    if plane == "functions":
        known = known or _why(describe_rule, load.rule)
    return known or _why(lambda: decide(plane, plan, load, machine=MACHINE))


def _upload(found: Specimen, codec: Transform[Any], model: Any, count: int) -> str:
    if "upload" not in found.parameters:
        return "it has an upload of its own"
    return _why(lambda: fitting.check(found.remade({"upload": codec}), model, count))


def _aggregator(found: Specimen) -> str:
    if "aggregator" not in found.parameters:
        return "it has one of its own"
    return _why(found.remade, {"aggregator": Median()})


def _relays(algorithm: Algorithm, model: Any) -> str:
    return _why(fitting.check_relays, algorithm, model)


def _noise(found: Specimen, seen: Facts) -> str:
    """Noise hides what a bounded step could change, and nothing beside it."""
    groups = sorted(name for name in seen.up if name not in (MODEL, "counter/"))
    said = []
    if "upload" not in found.parameters:
        said.append("no noise at clients: it has an upload of its own")
    elif groups:
        said.append(f"bind Clip and Noise to {', '.join(groups)} as well, with On")
    if seen.tells:
        said.append(f"{', '.join(seen.tells)} of each client reach the server in the clear")
    if seen.weights not in ("equal", "by client"):
        said.append("weights depend on the clients' data or timing: bound them for central noise")
    return "; ".join(said)


def _masks(algorithm: Algorithm, model: Tensors, seen: Facts) -> str:
    """Masks cancel in sums alone, of what each client has weighed before it masks."""
    own = seen.form != "values" and _only_encoded(algorithm, model)
    if not own and not fitting.only_sums(algorithm.aggregator, model):
        name = type(getattr(algorithm.aggregator, "default", algorithm.aggregator)).__name__
        return f"{name} looks at each update by itself"
    encoded = {kind.__name__ for kind in _kinds(Encoded)} - {"Seeded"}
    if not own and seen.form in encoded:
        return f"{seen.form} values of clients do not add up without being decoded"
    if seen.weights == "vary":
        return "a client's weight is known only once its update is there"
    return ""


def _only_encoded(algorithm: Algorithm, model: Tensors) -> bool:
    """Whether the aggregator adds up encoded updates as they are, and takes no others."""
    rule = algorithm.aggregator
    try:
        rule.fold(rule.init(model), Tensors(model.layout, model.dense), 1.0, NAMES[0])
    except UpdateError:
        return True
    return False


def _kinds(base: type[Any]) -> list[type[Any]]:
    below: list[type[Any]] = base.__subclasses__()
    return [kind for sub in below for kind in (sub, *_kinds(sub))]
