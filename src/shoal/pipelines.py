"""Upload pipelines for a target, and what cannot stand together in one.

`Auto(nbytes=100_000)` or `Auto(seconds=2)` picks the least lossy pipeline that fits: nothing,
bfloat16, 8 or 4 bits, then as many of the largest values as there is room for.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from math import log2
from statistics import median_low
from typing import Any, Protocol

from shoal import wire
from shoal.aggregators import Median, Routed, TrimmedMean
from shoal.core import NOTHING, Aggregator, Algorithm, Chain, Context, Transform, chain
from shoal.errors import ConfigError, positive
from shoal.tensors import Tensors
from shoal.transforms import (
    DGC,
    EF21,
    LSH,
    QSGD,
    Accumulate,
    CountSketch,
    EControl,
    Entropy,
    ErrorFeedback,
    FedZip,
    Ferret,
    FixedPoint,
    Half,
    Homomorphic,
    KMeansCodebook,
    Momentum,
    Noise,
    On,
    PowerSGD,
    Quantize,
    RandK,
    Sign,
    TopK,
)  # fmt: skip

DESCRIPTION = 1024  # bytes that the description of an encoded buffer may take on the wire
COUNTS = 256  # bytes that an update's counts and metrics may take
BLOCK = 512
LINKS = "on the links of three of four clients"
SAMPLE = 64  # clients whose computation is looked at
SPARSE = TopK | RandK
REMEMBERS = ErrorFeedback | EF21 | EControl | DGC | Momentum | Accumulate
QUANTIZED = Quantize | QSGD | Sign | KMeansCodebook | Half


@dataclass(frozen=True)
class AutoState:
    """The pipeline's state, and the bytes that it was picked for."""

    nbytes: int
    inner: Any


@dataclass(frozen=True)
class Auto:
    """Pick the pipeline for a target; groups beside the trainable values are sent as they are.

    Without a target, an experiment whose links have a limit sends no longer than its median client
    computes, but a hundredth of the values at least; without such a limit, a value takes 8 bits.

    Attributes:
        nbytes: that an update may take on the wire; or
        seconds: that its upload may take on the links of the experiment's world: of four clients,
            three are at least as fast as that.
    """

    nbytes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check that at most one target is given."""
        if self.nbytes is not None and self.seconds is not None:
            raise ConfigError("upload", "Auto takes one target: give either nbytes or seconds")
        if self.nbytes is not None:
            positive("nbytes", self.nbytes)
        if self.seconds is not None:
            positive("seconds", self.seconds)

    def init(self, model: Tensors) -> AutoState:
        """The state of the pipeline for a model of this layout.

        Raises:
            ConfigError: if nothing fits the target, or bytes are not known yet.
        """
        if self.nbytes is None:
            raise ConfigError("upload.seconds", "needs the links of an experiment: give nbytes")
        return AutoState(self.nbytes, pipeline(model, self.nbytes).init(model))

    def apply(self, value: Tensors, state: AutoState, ctx: Context) -> tuple[Tensors, AutoState]:
        """What the pipeline makes of the value."""
        sent, inner = pipeline(value, state.nbytes).apply(value, state.inner, ctx)
        return sent, AutoState(state.nbytes, inner)


class Links(Protocol):
    """What tells how fast clients are, as `simulation.Devices`."""

    def upload_seconds(self, seed: int, client: str, nbytes: int) -> float:
        """Seconds for so many bytes from the client."""

    def compute_seconds(self, seed: int, client: str, number: int, steps: int) -> float:
        """Seconds for the local steps of a client's task of this number."""


class Clients(Protocol):
    """Names, and the data of each, as a `Federation` or a dict."""

    def __getitem__(self, client: str, /) -> Sized:
        """A client's data."""


def pipeline(model: Tensors, nbytes: int) -> Transform[Any]:
    """The least lossy pipeline whose payload for such a model takes at most so many bytes.

    Raises:
        ConfigError: if there is none.
    """
    size, width = model.layout.size, model.layout.dtype.itemsize
    if _beside(model) + size * width <= nbytes or not size:
        return NOTHING
    room = nbytes - _beside(model) - DESCRIPTION
    blocks = -(-size // BLOCK) * width
    if width == 4 and 2 * size <= room:
        return Half()
    if size + blocks <= room:
        return Quantize(8, BLOCK)
    if -(-size // 2) + blocks <= room:
        return ErrorFeedback(Quantize(4, BLOCK))
    count = _count(size, room, width)
    if count < 1:
        least = nbytes - room + _bytes(size, 1, width) + 1
        raise ConfigError("upload.nbytes", f"nothing fits {nbytes} bytes; the least is {least}")
    return chain(ErrorFeedback(chain(TopK(count=count), Quantize(8, BLOCK))), Entropy())


def _bytes(size: int, count: int, width: int) -> int:
    """At most this for so many of the largest values: a byte, its share of a scale, its index."""
    index = min(4 * count, 512 + count * (log2(size / count) + 6) / 8)
    return int(count + (count / BLOCK + 1) * width + index)


def _count(size: int, room: int, width: int) -> int:
    low, high = 0, size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _bytes(size, middle, width) <= room else (low, middle - 1)
    return low


def resolved(
    algorithm: Algorithm, model: Tensors, links: Links, clients: Sequence[str], data: Clients,
    seed: int,
) -> tuple[Algorithm, str]:  # fmt: skip
    """The algorithm with the target of an `Auto` in bytes, and what was picked for it and why.

    Args:
        clients: their names, and `data` of each.

    Raises:
        ConfigError: if seconds are asked for, but the links have no limit; or nothing fits.
    """
    auto = algorithm.upload
    if not isinstance(auto, Auto):
        return algorithm, ""
    nbytes, why = _target(auto, algorithm, model, links, clients, data, seed)
    codec = pipeline(model, nbytes)
    name = "as it is" if codec == NOTHING else f"by {codec!r}"
    whole = wire.size(model.with_flat(model.dense))
    reason = f"upload: {name}; an update has {whole:,} bytes, and may take {nbytes:,}: {why}"
    return replace(algorithm, upload=Auto(nbytes=nbytes)), reason


def _target(
    auto: Auto, algorithm: Algorithm, model: Tensors, links: Links, clients: Sequence[str],
    data: Clients, seed: int,
) -> tuple[int, str]:  # fmt: skip
    """Bytes for an update, and why so many."""
    if auto.nbytes is not None:
        return auto.nbytes, "the target"
    known = list(clients)[:10_000]
    slow = sorted(links.upload_seconds(seed, client, 10**9) for client in known)
    each = slow[(3 * len(slow) - 1) // 4] / 1e9
    if each and auto.seconds is not None:
        return max(1, int(auto.seconds / each)), f"{auto.seconds:g} s {LINKS}"
    if auto.seconds is not None:
        raise ConfigError("upload.seconds", "the links have no limit: give devices.up, or nbytes")
    size, width, beside = model.layout.size, model.layout.dtype.itemsize, _beside(model)
    if not each:
        room = size + -(-size // BLOCK) * width + DESCRIPTION
        return room + beside, "8 bits a value, as the links have no limit"
    some = known[:: max(1, len(known) // SAMPLE)]
    steps = [(client, algorithm.trainer.steps(len(data[client]), {})) for client in some]
    seconds = median_low(links.compute_seconds(seed, client, 0, n) for client, n in steps)
    least = _bytes(size, -(-size // 100), width) + DESCRIPTION + beside if size else 1
    return max(least, int(seconds / each)), f"{seconds:g} s {LINKS}: the median client computes so"


def _beside(model: Tensors) -> int:
    """Bytes of an update that are not its trainable values: names, counts and groups."""
    values = model.layout.size * model.layout.dtype.itemsize
    return wire.size(model.with_flat(model.dense)) - values + COUNTS


def stages(upload: Transform[Any], path: str = "upload") -> list[tuple[str, Transform[Any]]]:
    """The steps of a pipeline, those within others too, each with where it stands."""
    if isinstance(upload, Chain):
        inner = [stages(t, f"{path}[{i}]") for i, t in enumerate(upload.transforms)]
        return [stage for part in inner for stage in part]
    if is_dataclass(upload) and not isinstance(upload, On):
        for field in fields(upload):
            if field.name == "codec":
                return stages(getattr(upload, field.name), f"{path}.codec")
    return [(path, upload)]


def check(upload: Transform[Any], aggregator: Aggregator[Any]) -> None:
    """Refuse what cannot work together.

    Raises:
        ConfigError: naming the step.
    """
    found = stages(upload)
    for (_, before), (path, step) in pairwise(found):
        if isinstance(step, SPARSE) and isinstance(before, QUANTIZED):
            what = f"{type(step).__name__} undoes {type(before).__name__} before it"
            raise ConfigError(path, f"{what}: change their order")
        if isinstance(before, Entropy):
            problem = f"{type(step).__name__} stands behind Entropy, which must be the last step"
            raise ConfigError(path, problem)
    if isinstance(aggregator, Routed):
        aggregator = aggregator.default
    if isinstance(aggregator, Median | TrimmedMean):
        for path, step in found:
            if isinstance(step, TopK) or (isinstance(step, RandK) and not step.shared):
                rule = type(aggregator).__name__
                raise ConfigError(
                    path, f"each client sends other coordinates, and the {rule} of the zeros of the"
                    f" others is zero: use RandK(shared=True), or another aggregator than {rule}",
                )  # fmt: skip


def check_downlink(codec: Transform[Any]) -> None:
    """Refuse what cannot encode the changes of a public model.

    Raises:
        ConfigError: naming the step.
    """
    if isinstance(codec, Auto):
        raise ConfigError("downlink", "Auto is for uploads: name a codec, e.g. TopK(0.05)")
    for path, step in within(codec, "downlink"):
        name = type(step).__name__
        if isinstance(step, REMEMBERS):
            problem = f"{name} remembers what it left out, as the downlink itself does: leave it"
            raise ConfigError(path, problem)
        if isinstance(step, Noise) or (isinstance(step, Sign) and step.scale != "mean"):
            problem = f"{name} does not come nearer to what it encodes: take a contractive codec"
            raise ConfigError(path, problem)
        if isinstance(step, RandK) and step.scaled and step.fraction != 1:
            problem = "enlarges what it sends, so errors would grow: set scaled=False"
            raise ConfigError(path, f"RandK {problem}")


def check_masked(upload: Transform[Any], path: str = "upload") -> None:
    """Refuse what secure aggregation cannot add up: the decoded sum must be the sum of decodes.

    Raises:
        ConfigError: naming the step.
    """
    found = within(upload, path)
    where, last = found[-1] if found else (path, upload)
    for at, step in found:
        name = type(step).__name__
        if isinstance(step, Entropy):
            raise ConfigError(at, "Entropy cannot shorten masked codes: leave it out")
        chosen = isinstance(step, TopK) or (isinstance(step, RandK) and not step.shared)
        if chosen and isinstance(last, FixedPoint):
            problem = f"{name} has each client send other coordinates, whose masks do not meet"
            raise ConfigError(at, f"{problem}: use RandK(shared=True), or end with CountSketch")
        if isinstance(step, QUANTIZED | PowerSGD | LSH | FedZip | Ferret):
            problem = f"{name} makes codes by each client's own scale, so their sum means nothing"
            raise ConfigError(at, f"{problem}: use FixedPoint in its place")
    if not isinstance(last, FixedPoint | Homomorphic | CountSketch):
        problem = "ends with floats, which masks do not cancel in"
        raise ConfigError(where, f"{problem}: end with FixedPoint, CountSketch or Homomorphic")


def within(upload: Transform[Any], path: str) -> list[tuple[str, Transform[Any]]]:
    """All steps of a pipeline and the wrappers around them, each with where it stands."""
    if isinstance(upload, Chain):
        inner = [within(t, f"{path}[{i}]") for i, t in enumerate(upload.transforms)]
        return [step for part in inner for step in part]
    found = [(path, upload)]
    for name in ("codec", "transform"):
        if is_dataclass(upload) and hasattr(upload, name):
            found += within(getattr(upload, name), f"{path}.{name}")
    return found
