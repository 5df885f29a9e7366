"""A method's facts in words: a row of the table of all, and a page of one."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shoal.anatomy.compose import Composed, composed
from shoal.anatomy.facts import MODEL, Facts, facts
from shoal.anatomy.specimens import TOLD, Specimen, specimen
from shoal.core import Algorithm

TITLES = (
    "name", "sends up", "sends down", "client keeps", "server keeps", "rounds", "must be told",
    "planes", "upload", "masks",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One method with all that is known of it."""

    name: str
    factory: Callable[..., Algorithm]
    specimen: Specimen
    facts: Facts
    composed: Composed


def method(name: str, factory: Callable[..., Algorithm], every: bool = False) -> Method:
    """A method, observed; with `every`, all kinds of trainers are tried.

    Raises:
        ConfigError: if it asks for a parameter for which there is no value.
    """
    found = specimen(factory, every)
    seen = facts(found)
    return Method(name, factory, found, seen, composed(found, seen))


def row(one: Method) -> tuple[str, ...]:
    """The method's row under `TITLES`, in few words."""
    seen, parts = one.facts, one.composed
    works = {plane.split()[0] for plane, why in parts.planes.items() if not why}
    whole = [plane for plane, why in parts.planes.items() if why and plane.split()[0] in works]
    planes = "all" if not whole and len(works) == 4 else ", ".join(sorted(works))
    told = [name for name in one.specimen.needed if name in TOLD]
    uploads = [name for name, why in parts.uploads.items() if not why]
    upload = "any" if len(uploads) == len(parts.uploads) else ", ".join(uploads) or "own"
    return (
        one.name, _sent(seen.up, seen), _sent(seen.down), _kept(seen.client), _server(seen),
        "yes" if not seen.staleness else "no", ", ".join(told) or "nothing",
        planes + (" (flat)" if whole else ""), upload, "no" if parts.masks else "yes",
    )  # fmt: skip


def page(one: Method) -> list[str]:
    """All that is known, with reasons."""
    seen, parts, found = one.facts, one.composed, one.specimen
    module = sys.modules[one.factory.__module__]
    told = [f"{name} ({TOLD[name]})" for name in found.needed if name in TOLD]
    lines = [
        (module.__doc__ or "").splitlines()[0],
        "",
        f"sends up     {_sent(seen.up, seen)}; {_listed(seen.tells, 'no metrics')}",
        f"sends down   {_sent(seen.down)}; tasks {', '.join(seen.tasks)}, "
        f"which say {_listed(seen.settings, 'nothing else')}",
        f"client keeps {_kept(seen.client)}",
        f"server keeps {_server(seen)}",
        f"assumes      {'; '.join(_assumes(one))}",
        f"must be told {_listed(told, 'nothing')}",
        f"weights      {_WEIGHTS[seen.weights]}",
        f"staleness    {_STALE[bool(seen.staleness)]}",
        f"trainers     {', '.join(found.trainers)} (of those that come with shoal)",
        f"aggregator   {parts.aggregator or 'any, by aggregator='}",
        f"noise        {parts.noise or 'by upload=chain(Clip(...), Noise(...))'}",
        f"masks        {parts.masks or 'yes: only sums of updates matter'}",
        f"relays       {parts.relays or 'yes'}",
        *_reasons("planes", parts.planes),
        *_reasons("upload", parts.uploads),
    ]
    made = ", ".join(f"{name}={_short(value)}" for name, value in found.arguments.items())
    return [*lines, "", f"seen on six small clients with {made or 'its defaults'}"]


_WEIGHTS: Mapping[str, str] = {
    "equal": "the same for all updates",
    "examples": "by examples",
    "by client": "a number for each client, known before it sends",
    "vary": "by what happens in the run (time, staleness or participation)",
}
_STALE: Mapping[bool, str] = {
    False: "none: an update counts for the version that it started from",
    True: "updates may be older than the model that they change",
}


def _assumes(one: Method) -> list[str]:
    """What must hold of the federation for the method to be what it says."""
    module, seen, found = sys.modules[one.factory.__module__], one.facts, one.specimen
    said = list(getattr(module, "ASSUMES", ()))
    if {"replicas", "shape"} & set(found.needed):
        said.append("several clients hold the same data")
    if "rounds" in found.parameters and "cohort" not in found.parameters:
        said.append("everyone takes part in every round")
    if seen.client:
        said.append("clients come again, with what they kept")
    if seen.each:
        said.append("few enough clients for the server to remember each")
    return said or ["nothing of who takes part"]


def _sent(sizes: Mapping[str, float], seen: Facts | None = None) -> str:
    """Groups with their sizes; what has the model's size goes by its name alone."""
    parts = []
    for name, size in sizes.items():
        what = name
        if name == MODEL and seen is not None:
            what = seen.kind if seen.form == "values" else f"{seen.form.lower()} {seen.kind}"
        parts.append(what if abs(size - 1) < 0.01 else f"{what} x{size:.2g}")
    return " + ".join(parts)


def _kept(models: float) -> str:
    return "nothing" if not models else f"{models:.3g} model{'s' * (models > 1)}"


def _server(seen: Facts) -> str:
    parts = [] if not seen.server else [_kept(seen.server)]
    if seen.each:
        parts.append(f"{_kept(seen.each)} a client")
    if seen.set:
        parts.append("a commit's updates")
    return " + ".join(parts) or "nothing"


def _listed(items: tuple[str, ...] | list[str], none: str) -> str:
    return ", ".join(items) or none


def _reasons(title: str, found: Mapping[str, str]) -> list[str]:
    """What works, then each reason with what it is a reason against."""
    works = [name for name, why in found.items() if not why]
    lines = [f"{title:12} {_listed(works, 'none of those tried')}"]
    for why in dict.fromkeys(filter(None, found.values())):
        names = ", ".join(name for name, reason in found.items() if reason == why)
        lines.append(f"{'':12} not {names}: {why}")
    return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 30 else f"{text[:27]}..."
