"""One fuzz target under atheris (libFuzzer), guided by the coverage of Shoal's own modules.

    python fuzz.py decoder | model | endpoints  CORPUS [libFuzzer's options]

`decoder` takes a push's bytes as a server does, `model` a pull's as a client does; `endpoints`
sends requests to a server in this process. Whatever is not a typed refusal is a crash.
"""

import http.client
import json
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import numpy as np

WATCHED = [
    "shoal.packing", "shoal.wire", "shoal.wire_forms", "shoal.tensors", "shoal.encoded",
    "shoal.validation", "shoal.downlink", "shoal.codecs", "shoal.net", "shoal.plain",
]  # fmt: skip
with atheris.instrument_imports(include=WATCHED):
    import shoal
    from shoal import downlink, packing, transforms, wire
    from shoal.core import Context, chain
    from shoal.errors import ModelError, UpdateError
    from shoal.messages import Payload, Task
    from shoal.net import operators, protocol
    from shoal.net.openapi import document
    from shoal.net.server import Server, Serving
    from shoal.tensors import Tensors
    from shoal.validation import check_payload

TASK = Task(0, "a", 0)
TRAINER = shoal.numpy.Softmax(lr=0.5, features=64, classes=10)
MODEL = TRAINER.initial(0)
ENCODINGS: list[Any] = [
    chain(), transforms.TopK(0.1), transforms.RandK(0.1), transforms.Sign(),
    transforms.Quantize(4), transforms.QSGD(4), transforms.Half(),
    chain(transforms.TopK(0.1), transforms.Quantize(4)),
    chain(transforms.Quantize(4), transforms.Entropy()),
]  # fmt: skip


def payloads() -> list[bytes]:
    """An answer in each encoding."""
    flat = np.linspace(-1, 1, MODEL.layout.size, dtype=np.float32)
    found = []
    for transform in ENCODINGS:
        value = Tensors(MODEL.layout, flat.copy())
        state = transform.init(value)
        sent, _ = transform.apply(value, state, Context("a", 0, 7, 0, 0))
        found.append(packing.pack(Payload(sent, 7, 2, metrics={"loss": 0.5})))
    return found


ODD: list[Any] = [
    0,
    1,
    -1,
    7,
    640,
    2**31,
    2**63,
    2**64,
    0.5,
    1e308,
    True,
    None,
    "",
    "F32",
    "I64",
    [],
    {},
]


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """libFuzzer's mutation of all bytes, or another value somewhere in the JSON header."""
    draws = random.Random(seed)
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:end]) if end <= len(data) else None
    except ValueError:
        header = None
    if not isinstance(header, dict) or draws.random() < 0.5:
        return bytes(atheris.Mutate(data, most))
    for _ in range(draws.randint(1, 2)):
        _exchange(header, draws)
    text = json.dumps(header).encode()
    return (len(text).to_bytes(8, "little") + text + data[end:])[:most]


def _exchange(tree: Any, draws: random.Random) -> None:
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = draws.choice(keys)
        inner = tree[key]
        if isinstance(inner, dict | list) and inner and draws.random() < 0.8:
            tree = inner
            continue
        if isinstance(inner, str) and inner[:1] in ("{", "["):  # JSON within JSON
            try:
                nested = json.loads(inner)
                _exchange(nested, draws)
                tree[key] = json.dumps(nested)
                return
            except ValueError:
                pass
        if draws.random() < 0.1:
            del tree[key]
        elif isinstance(inner, int) and draws.random() < 0.5:
            tree[key] = inner + draws.randint(-8, 8)
        else:
            tree[key] = draws.choice(ODD) if draws.random() < 0.7 else tree[draws.choice(keys)]
        return


def decoder(data: bytes) -> None:
    """Bytes of a push, up to what is folded."""
    try:
        payload = packing.unpack(data)
        check_payload(TASK, payload, MODEL, 0.0)
    except (ModelError, UpdateError):
        return
    values = payload.tensors.dense
    assert values.shape == (MODEL.layout.size,) and np.isfinite(values).all()


def model(data: bytes) -> None:
    """Bytes of a pull, up to the model that is trained."""
    try:
        _, told, body = protocol.split_work(data)
        found = wire.load(body)[0] if told.base < 0 else downlink.follow(MODEL, body)
        found.finite()
    except ModelError:
        return


def pulled() -> list[bytes]:
    """Whole models and changes, as a server sends them."""
    whole = b"".join(bytes(piece) for piece in wire.parts(MODEL))
    told = protocol.Model(0, len(whole), protocol.digest(whole, "sha256"))
    found = [protocol.join_work(TASK, told, whole)]
    for data in payloads()[:4]:
        change = [packing.unpack(data).tensors]
        body = b"".join(bytes(piece) for piece in downlink.pieces(change))
        told = protocol.Model(0, len(body), protocol.digest(body, "sha256"), 1, 0, "sha256=00")
        found.append(protocol.join_work(TASK, told, body))
    return found


ENDPOINTS = [(m.upper(), path) for path, item in document()["paths"].items() for m in item]
NAMES = [
    "shoal-session", "shoal-digest", "range", "content-encoding", "content-length", "host",
    "authorization", "origin", "transfer-encoding",
]  # fmt: skip
VALUES = ["sha256=00", "zstd", "bytes=0-", "bytes=5-1", "127.0.0.1", "chunked", "0"]


class Endpoints:
    """A server, and requests to it that the fuzzer makes."""

    def __init__(self, folder: Path) -> None:
        operators.WATCH = 0.02
        self.port, self._ready = 0, threading.Event()
        data = shoal.data.digits(clients=2)
        made = shoal.Experiment(
            model=None, data=data, algorithm=shoal.fedavg(trainer=TRAINER), commits=10**9,
            evaluate_every=10**9, name="fuzz",
        )  # fmt: skip
        serving = Serving(port=0, store=str(folder), patience=0.5, stay=True)
        threading.Thread(target=self._serve, args=(serving, made), daemon=True).start()
        assert self._ready.wait(30)

    def _serve(self, serving: Serving, made: shoal.Experiment) -> None:
        import asyncio

        def ready(url: str, hall: object) -> None:
            self.port = int(url.rpartition(":")[2])
            self._ready.set()

        async def main() -> None:
            await Server(serving).serve([("fuzz", made)], ready)

        asyncio.run(main())

    def __call__(self, data: bytes) -> None:
        """One request; in half of them the session is a client's that has just joined."""
        given = atheris.FuzzedDataProvider(data)
        method, path = ENDPOINTS[given.ConsumeIntInRange(0, len(ENDPOINTS) - 1)]
        known = given.ConsumeBool() and not path.endswith(("stop", "resume"))
        run = "fuzz" if known else "no-" + _text(given, 8)
        task = str(given.ConsumeIntInRange(0, 9)) if given.ConsumeBool() else _text(given, 8)
        target = path.replace("{run}", run).replace("{task}", task)
        if given.ConsumeBool():
            target += "?" + _text(given, 40)
        headers = {}
        if known and given.ConsumeBool():
            name = f"f{given.ConsumeIntInRange(0, 3)}"
            body = json.dumps({"client": name}).encode()
            _, told = self.ask("POST", "/v1/runs/fuzz/join", {}, body)
            headers["shoal-session"] = json.loads(told).get("session", "")
        for _ in range(given.ConsumeIntInRange(0, 3)):
            name = NAMES[given.ConsumeIntInRange(0, len(NAMES) - 1)]
            known_value = VALUES[given.ConsumeIntInRange(0, len(VALUES) - 1)]
            headers[name] = known_value if given.ConsumeBool() else _text(given, 20)
        body = given.ConsumeBytes(given.remaining_bytes())
        status, told = self.ask(method, target, headers, body)
        assert status not in (500, 502), (method, target, headers, body, told)

    def ask(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        """Status and body of an answer; 0 where the server hung up on a malformed request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, target, skip_host="host" in headers)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            connection.sock.shutdown(1)  # nothing more comes: no body is waited for
            answer = connection.getresponse()
            return answer.status, answer.read()
        except TimeoutError:
            raise  # nobody answers
        except (http.client.HTTPException, OSError):
            return 0, b"{}"
        finally:
            connection.close()


def _text(given: atheris.FuzzedDataProvider, most: int) -> str:
    raw = given.ConsumeBytes(given.ConsumeIntInRange(0, most))
    return "".join(chr(33 + byte % 94) for byte in raw).replace("#", "-")


def main() -> None:
    """Fill the corpus with seeds and fuzz."""
    kind, corpus = sys.argv[1], Path(sys.argv[2])
    seeds = {"decoder": payloads, "model": pulled}.get(kind, list[bytes])()
    for i, seed in enumerate(seeds):
        (corpus / f"seed-{i}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        targets: dict[str, Callable[[bytes], None]] = {"decoder": decoder, "model": model}
        target = targets.get(kind) or Endpoints(Path(folder))
        own = {} if kind == "endpoints" else {"custom_mutator": mutated}
        atheris.Setup([sys.argv[0], *sys.argv[2:]], target, **own)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
