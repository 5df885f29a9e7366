"""The handler, and what runs it: this process, local processes, the interface of AWS Lambda."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from planes.functions_support import EXACT, MODEL, a_call, fill, local
from shoal import plain
from shoal.errors import ConfigError, ProtocolError
from shoal.planes import objects
from shoal.planes.functions import Functions
from shoal.planes.functions_runner import (
    Ceilings,
    FunctionError,
    Lambda,
    LocalRunner,
)
from shoal.planes.handler import answer, handler, perform
from shoal.planes.objects import ObjectError, S3Store, load, save
from shoal.tensors import Tensors, equal

pytest_plugins = ("planes.functions_fixtures",)


def test_a_call_done_twice_or_at_once_writes_the_same_object(
    plane: Callable[..., Functions], tmp_path: Path
) -> None:
    call, store = a_call(plane(), tmp_path)
    answers = [perform(call, store)]
    data = store.get(call.output, 0, 1 << 20)
    with ThreadPoolExecutor(8) as pool:
        answers += pool.map(lambda _: perform(call, store), range(16))
    assert answers == [answers[0]] * 17
    assert store.get(call.output, 0, 1 << 20) == data


def test_no_update_is_counted_twice_or_left_out(
    plane: Callable[..., Functions], tmp_path: Path
) -> None:
    call, store = a_call(plane(), tmp_path)
    event = {"store": objects.describe(store), "call": plain.encode(call)}
    inputs = event["call"]["inputs"]
    for wrong, problem in ((inputs + inputs[:1], "counted twice"), (inputs[1:], "manifest")):
        reply = handler(json.loads(json.dumps(event | {"call": event["call"] | {"inputs": wrong}})))
        with pytest.raises(ProtocolError, match=problem):
            answer(reply)
    swapped = [inputs[0] | {"key": inputs[1]["key"]}, *inputs[1:]]
    with pytest.raises(ObjectError, match="updates that were not expected"):
        answer(handler(event | {"call": event["call"] | {"inputs": swapped}}))
    assert call.output not in list(store.keys(""))


@pytest.mark.parametrize("event", [None, [], {}, {"call": {}}, {"call": 3, "store": 4}, "x"])
def test_events_that_make_no_sense_are_answered(event: Any) -> None:
    with pytest.raises(ConfigError):
        answer(handler(event))


def test_a_notification_of_s3_performs_the_call_that_it_names(
    s3: str, plane: Callable[..., Functions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    store = S3Store("shoal", "noted calls/")
    call, _ = a_call(plane(store=store), tmp_path)
    save(store, "x.call", {"store": objects.describe(store), "call": plain.encode(call)}, {})
    record = {"s3": {"bucket": {"name": "shoal"}, "object": {"key": "noted+calls/x.call"}}}
    reply = handler({"Records": [record, {"s3": {}}]})
    assert reply["results"][0]["key"] == call.output
    assert reply["results"][1]["error"] == "ConfigError"
    assert load(store, call.output)[0]["contributors"] == [0, 1, 2, 3, 4]


def test_local_processes_stay_warm_and_agree_on_s3(
    s3: str, plane: Callable[..., Functions]
) -> None:
    runner = LocalRunner(Ceilings(memory=1 << 30))
    made = plane(store=S3Store("shoal", "warm/", s3), runner=runner, shards=2, fan_in=3)
    for _ in range(2):
        assert equal(fill(made, 7).commit(), local(EXACT, 7))
        made.start(MODEL, 0)
    assert 1 <= runner.starts <= runner.concurrency
    assert runner.crashes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="no ceilings there")
def test_a_function_that_takes_too_much_memory_ends_and_says_so(
    plane: Callable[..., Functions], tmp_path: Path
) -> None:
    call, store = a_call(plane(), tmp_path)
    event = {"store": objects.describe(store), "call": plain.encode(call)}
    large = Tensors.of({"x": np.zeros(30_000_000, np.float32)})
    save(store, call.like, {}, {"value": large})  # 120 MB, of which several copies are needed
    runner = LocalRunner(Ceilings(memory=200 << 20, retries=1))
    try:
        with pytest.raises(FunctionError, match=r"failed 2 times: out of memory: .* 209715200"):
            runner.invoke(event)
        assert (runner.starts, runner.crashes) == (2, 2)
        with pytest.raises(ConfigError):  # one that fits is answered
            runner.invoke({})
    finally:
        runner.close()


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
def test_a_function_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    runner = LocalRunner(Ceilings(timeout=0.2, retries=1))
    stop = threading.Event()

    def freeze() -> None:
        while not stop.wait(0.005):
            for pid in runner.pids:
                os.kill(pid, signal.SIGSTOP)

    freezer = threading.Thread(target=freeze)
    freezer.start()
    try:
        with pytest.raises(FunctionError, match=r"failed 2 times: out of time: it may take 0.2 s"):
            runner.invoke({"call": {"output": "k"}})
    finally:
        stop.set()
        freezer.join()
        runner.close()


def test_a_cold_start_is_paid_once(tmp_path: Path) -> None:
    runner = LocalRunner(Ceilings(cold_start=0.2))
    try:
        times = []
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(ConfigError):
                runner.invoke({})
            times.append(time.monotonic() - began)
    finally:
        runner.close()
    assert times[0] > 0.2 > times[1]
    for wrong in ({"memory": 0}, {"timeout": -1.0}, {"retries": -1}, {"concurrency": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Ceilings(**wrong)  # type: ignore[arg-type]


class Service(BaseHTTPRequestHandler):
    """What AWS Lambda answers to `Invoke`, with the real handler behind it."""

    calls = 0

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/2015-03-31/functions/shoal-fold/invocations"
        Service.calls += 1
        crashed = Service.calls % 3 == 0
        reply: Any = {"errorType": "Runtime.OutOfMemory"} if crashed else handler(event)
        text = json.dumps(reply).encode()
        self.send_response(200)
        if crashed:
            self.send_header("X-Amz-Function-Error", "Unhandled")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        pass


def test_functions_on_lambda_are_called_by_its_interface(
    s3: str, plane: Callable[..., Functions]
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        runner = Lambda("shoal-fold", concurrency=4, region="us-east-1", endpoint_url=url)
        made = plane(store=S3Store("shoal", "lambda/", s3), runner=runner, shards=2, fan_in=3)
        assert equal(fill(made, 7).commit(), local(EXACT, 7))
        assert Service.calls >= 8
        refused = Lambda("shoal-fold", retries=0, region="us-east-1", endpoint_url=url)
        Service.calls = 2
        with pytest.raises(FunctionError, match=r"Unhandled: .*Runtime.OutOfMemory"):
            refused.invoke({"call": {"output": "k"}})
    finally:
        server.shutdown()
        server.server_close()


def test_the_template_is_whole_and_names_the_handler() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: (suffix, node.value))
    path = Path(__file__).resolve().parents[2] / "deploy" / "aws" / "template.yaml"
    resources = yaml.load(path.read_text("utf-8"), Loader)["Resources"]
    fold = resources["Fold"]["Properties"]
    assert fold["Handler"] == f"{handler.__module__}.{handler.__name__}"
    assert resources["Fold"]["Type"] == "AWS::Serverless::Function"
    assert fold["Events"]["Called"]["Properties"]["Bucket"] == ("Ref", "Objects")
    assert resources["Objects"]["Type"] == "AWS::S3::Bucket"
