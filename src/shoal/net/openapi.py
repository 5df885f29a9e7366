"""The OpenAPI description of the server, from one table."""

from functools import lru_cache
from typing import Any

from shoal import __version__
from shoal.net.protocol import DIGEST, JSON_TYPE, SESSION, TENSORS_TYPE, VERSION, WORK_TYPE

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_BINARY = {"type": "string", "format": "binary"}
_ERROR = {
    "type": "object",
    "required": ["error", "problem", "todo"],
    "properties": {"error": _TEXT, "problem": _TEXT, "todo": _TEXT},
}
_RUN = {
    "type": "object",
    "required": ["name", "status", "problem"],
    "properties": {
        "name": _TEXT, "status": {"enum": ["running", "stopped", "done", "failed"]},
        "problem": _TEXT, "version": _COUNT, "time": {"type": "number"}, "records": _COUNT,
        "clients": {"type": "array", "items": _TEXT},
    },
}  # fmt: skip
_STATUS = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": _TEXT, "problem": _TEXT, "offset": _COUNT},
}
_SESSION = ("header", SESSION, _TEXT, True)


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_NAMES = {"type": "array", "items": _TEXT}
_ROLE = {"enum": ["operator", "client", "viewer"]}
_HEALTH = _object(("status", "version", "uptime"), status=_TEXT, version=_TEXT)
_READY = _object(("status", "checks"), status=_TEXT, checks={"type": "object"})
_KEY = _object(
    ("key", "name", "role", "runs", "created", "revoked"), key=_TEXT, name=_TEXT, role=_ROLE,
    runs=_NAMES, created={"type": "number"}, revoked={"type": "boolean"},
)  # fmt: skip

# method, path, what it does, parameters, body (type, schema), answers: status -> (type, schema)
Answers = dict[int, tuple[str, Any] | None]
_ROWS: list[tuple[str, str, str, list[Any], Any, Answers]] = [
    ("get", "openapi.json", "This document.", [], None, {200: (JSON_TYPE, {"type": "object"})}),
    (
        "get", "runs", "All runs.", [], None,
        {200: (JSON_TYPE, _object(("runs",), runs={"type": "array", "items": _RUN}))},
    ),
    (
        "post", "runs", "Submit a run: an experiment as TOML.", [],
        (JSON_TYPE, _object(("name", "experiment"), name=_TEXT, experiment=_TEXT)),
        {201: (JSON_TYPE, _RUN)},
    ),
    ("get", "runs/{run}", "One run.", [], None, {200: (JSON_TYPE, _RUN)}),
    (
        "get", "runs/{run}/records", "What happened, from the record of a number on.",
        [("query", "from", _COUNT, False), ("query", "wait", _COUNT, False)], None,
        {200: (JSON_TYPE, _object(("from", "next", "status", "records")))},
    ),
    ("post", "runs/{run}/stop", "Save a run and let it rest.", [], None, {200: (JSON_TYPE, _RUN)}),
    ("post", "runs/{run}/resume", "Go on with a run.", [], None, {200: (JSON_TYPE, _RUN)}),
    (
        "post", "runs/{run}/join", "Come as a client.", [],
        (JSON_TYPE, _object((), client=_TEXT, session=_TEXT)),
        {200: (JSON_TYPE, _object(
            ("session", "client", "patience", "experiment"), session=_TEXT, client=_TEXT,
            patience={"type": "number"}, experiment=_TEXT, run=_TEXT, run_id=_TEXT, server=_TEXT,
        ))},
    ),
    (
        "post", "runs/{run}/pull", "Wait for work.",
        [_SESSION, ("query", "have", _COUNT, False), ("query", "wait", _COUNT, False),
         ("query", "digest", {"enum": ["sha256", "xxh128"]}, False)],
        None, {200: (WORK_TYPE, _BINARY), 204: None},
    ),
    (
        "post", "runs/{run}/heartbeat", "Say that the client lives.", [_SESSION], None,
        {200: (JSON_TYPE, _object(("task", "revoked", "accepted"), task={"type": "integer"},
                                  revoked={"type": "boolean"}, accepted={"type": "integer"}))},
    ),
    ("post", "runs/{run}/leave", "Go.", [_SESSION], None, {200: (JSON_TYPE, _STATUS)}),
    (
        "get", "runs/{run}/tasks/{task}/model", "The model of a task, or a range of it.",
        [_SESSION, ("header", "range", _TEXT, False)], None,
        {200: (TENSORS_TYPE, _BINARY), 206: (TENSORS_TYPE, _BINARY)},
    ),
    (
        "get", "runs/{run}/tasks/{task}/push", "How many bytes of a payload are here.",
        [_SESSION], None, {200: (JSON_TYPE, _object(("offset",), offset=_COUNT))},
    ),
    (
        "put", "runs/{run}/tasks/{task}/push", "Answer a task, whole or from an offset on.",
        [_SESSION, ("header", DIGEST, _TEXT, True), ("query", "offset", _COUNT, False),
         ("query", "total", _COUNT, False)],
        (TENSORS_TYPE, _BINARY), {200: (JSON_TYPE, _STATUS), 202: (JSON_TYPE, _STATUS)},
    ),
    ("get", "health", "Whether the server answers.", [], None, {200: (JSON_TYPE, _HEALTH)}),
    (
        "get", "ready", "Whether it can work; 503 if not.", [], None,
        {200: (JSON_TYPE, _READY), 503: (JSON_TYPE, _READY)},
    ),
    (
        "get", "metrics", "Numbers in Prometheus' text format.", [], None,
        {200: ("text/plain", _TEXT)},
    ),
    (
        "post", "enroll", "Turn a token into a key (with a certificate, as what follows).",
        [], (JSON_TYPE, _object(("token", "client", "nonce", "proof"), token=_TEXT, client=_TEXT,
                                nonce=_TEXT, proof=_TEXT)),
        {201: (JSON_TYPE, _object(("key", "secret", "client"), key=_TEXT, secret=_TEXT,
                                  client=_TEXT))},
    ),
    (
        "post", "tokens", "Make an enrolment token.", [],
        (JSON_TYPE, _object((), role=_ROLE, runs=_NAMES, client=_TEXT,
                            uses={"type": "integer", "minimum": 1},
                            lifetime={"type": "integer", "minimum": 1})),
        {201: (JSON_TYPE, _object(("token",), token=_TEXT))},
    ),
    (
        "get", "keys", "All keys, without their secrets.", [], None,
        {200: (JSON_TYPE, _object(("keys",), keys={"type": "array", "items": _KEY}))},
    ),
    (
        "post", "revoke", "Refuse a key or a token from now on; give one of them.", [],
        (JSON_TYPE, _object((), key=_TEXT, token=_TEXT)), {200: (JSON_TYPE, _STATUS)},
    ),
    (
        "post", "runs/{run}/tasks/{task}/fail", "Give a task up, and say why.", [_SESSION],
        (JSON_TYPE, _object(("reason",), reason=_TEXT, traceback=_TEXT)),
        {200: (JSON_TYPE, _STATUS)},
    ),
]  # fmt: skip


# The calls of SuperNodes, of Flower's Fleet protocol; on a server for a Flower app.
FLEET = {
    "register-node": "Make a node known.", "unregister-node": "Let it be forgotten.",
    "activate-node": "A node is here.", "deactivate-node": "It goes.",
    "send-node-heartbeat": "Say that it lives.", "pull-messages": "Wait for a task.",
    "get-run": "What a run is.", "get-fab": "The app that it runs.",
    "pull-object": "A part of a task.", "confirm-message-received": "A task has come whole.",
    "push-messages": "Announce an answer.", "push-object": "A part of it.",
}  # fmt: skip
_PROTOBUF = ("application/protobuf", _BINARY)
_FLEET_ERROR = (JSON_TYPE, _object(("code", "detail"), code=_COUNT, detail=_TEXT))
_SIGNED = [
    ("header", name, _TEXT, True)
    for name in ("flwr-public-key", "flwr-signature", "flwr-timestamp")
]


@lru_cache(maxsize=2)
def document(fleet: bool = False) -> dict[str, Any]:
    """The description as plain data; with the calls of SuperNodes if the server takes them."""
    paths: dict[str, Any] = {}
    calls: list[Any] = [
        ("post", f"fleet/{name}", text, _SIGNED, _PROTOBUF, {200: _PROTOBUF})
        for name, text in FLEET.items()
    ] if fleet else []  # fmt: skip
    for method, path, summary, parameters, body, answers in [*_ROWS, *calls]:
        named = [("path", name, _TEXT if name == "run" else _COUNT, True)
                 for name in ("run", "task") if f"{{{name}}}" in path]  # fmt: skip
        operation: dict[str, Any] = {
            "summary": summary,
            "operationId": f"{method}-{path}",
            "parameters": [
                {"in": where, "name": name, "schema": schema, "required": required}
                for where, name, schema, required in [*named, *parameters]
            ],
            "responses": {str(status): _answer(found) for status, found in answers.items()},
        }
        error = _FLEET_ERROR if path.startswith("fleet/") else (JSON_TYPE, _ERROR)
        operation["responses"]["default"] = _answer(error, "Refused, and why.")
        if body is not None:
            kind, schema = body
            operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
        paths.setdefault(f"/v{VERSION}/{path}", {})[method] = operation
    info = {"title": "Shoal", "version": __version__, "description": "See docs/protocol.md."}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _answer(found: tuple[str, Any] | None, text: str = "Done.") -> dict[str, Any]:
    if found is None:
        return {"description": "Nothing for now."}
    kind, schema = found
    return {"description": text, "content": {kind: {"schema": schema}}}
