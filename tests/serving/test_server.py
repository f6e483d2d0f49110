"""The server over real connections, each protocol driven by the client that its users have."""

import contextlib
import http.client
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import openai
import pytest
from local_server import ask, b64, expected, png, running
from PIL import Image
from stand_in import StandInAsker, StandInModel, StandInRow, grey
from writing_stand_in import WritingModel

from jaxqa.cli import serve
from jaxqa.errors import UserError
from jaxqa.scoring.api import ImageScorer
from jaxqa.scoring.question import Question
from jaxqa.serving import loading, native
from jaxqa.serving.openapi import description, page
from jaxqa.serving.service import Service

LAUNCHER = Path(__file__).parents[2] / "launchers" / "serve.py"
KEY = "a key"


@pytest.fixture(scope="module")
def server():
    with running() as url:
        yield url


def test_native_scores(server):
    images = [{"b64": b64(png(level))} for level in (0, 51, 255)]
    status, found = ask(f"{server}/v1/score", {"images": images, "return": ["rationale", "text"]})
    assert status == 200
    assert found["scores"] == [expected(0), expected(51), 5.0]
    assert found["normalised"] == pytest.approx([0, 0.2, 1]) and found["range"] == [1.0, 5.0]
    assert found["errors"] == [None] * 3 and found["details"][0] == {"rationale": "", "text": ""}
    assert (found["model"], found["task"], found["mode"]) == ("tiny", "quality", "think")
    mixed = [b64(png(51)), {"b64": b64(b"no image")}, f"data:image/png;base64,{b64(png(0))}"]
    status, found = ask(f"{server}/v1/score", {"images": mixed})
    assert status == 200 and found["scores"] == [expected(51), None, 1.0]
    assert "image 1" in found["errors"][1] and found["normalised"][1] is None


def test_multipart(server):
    boundary = "xyz"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{n}.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + png(51 * n)
        + b"\r\n"
        for n in range(2)
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="task"\r\n\r\nalignment\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n'
        f"--{boundary}--\r\n".encode()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    status, found = ask(f"{server}/v1/score", b"".join(parts), headers=headers)
    assert status == 200 and found["scores"] == [1.0, expected(51)]
    assert found["task"] == "alignment"


def test_comparisons(server):
    images = {"a": {"b64": b64(png(10))}, "b": {"b64": b64(png(90))}}
    status, found = ask(f"{server}/v1/compare", images)
    assert status == 200 and (found["choice"], found["method"]) == ("Image B", "scores")
    status, found = ask(f"{server}/v1/compare", {"a": images["a"]})
    assert status == 400 and found["error"]["message"].startswith("b: expected an image")


def test_openai_client(server):
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    assert [m.id for m in client.models.list()] == ["tiny", "tiny:quality", "tiny:alignment"]
    url = f"data:image/png;base64,{b64(png(102))}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "a cat"},
    ]
    for model in ("tiny", "tiny:alignment"):
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}], temperature=0
        )
        text = reply.choices[0].message.content
        assert text == f"Final Score: {expected(102):.4f}" and reply.choices[0].finish_reason
    broken = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    for messages, model in (
        ([{"role": "user", "content": broken}], "tiny"),
        ([{"role": "user", "content": "no image"}], "tiny"),
        ([{"role": "user", "content": content}], "other"),
        ([], "tiny"),
    ):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=model, messages=messages)
    client.close()


def test_flow_factory(server):
    assert ask(f"{server}/health") == (200, {"status": "ok"})
    images = [b64(png(level)) for level in (0, 102)]
    status, found = ask(f"{server}/compute", {"prompt": ["a", "b"], "image": images, "video": None})
    assert status == 200 and found["rewards"] == pytest.approx([0.0, 0.4])
    status, found = ask(f"{server}/compute", {"prompt": None, "image": [b64(b"x"), images[1]]})
    assert found["rewards"] == [None, pytest.approx(0.4)] and found["errors"][0]


def test_flow_grpo(server):
    """The request as `deqa_score_remote` builds it: JPEG bytes in a pickled dict."""
    images = []
    for level in (0, 102, 255):
        buffer = io.BytesIO()
        Image.fromarray(grey(level)).save(buffer, format="JPEG")
        images.append(buffer.getvalue())
    for prompts in ({}, {"prompts": np.array(["a", "b", "c"])}, {"prompts": ["a", "b", "c"]}):
        status, found = ask(f"{server}/", pickle.dumps({"images": images, **prompts}))
        assert status == 200
        assert pickle.loads(found)["outputs"] == pytest.approx([0.0, 0.4, 1.0], abs=0.01)

    class Evil:
        def __reduce__(self):
            return os.system, ("touch /tmp/jaxqa-server-was-here",)

    for body in (pickle.dumps({"images": Evil()}), b"", pickle.dumps([1]), pickle.dumps({})):
        status, found = ask(f"{server}/", body)
        assert status == 400 and "error" in found  # 500 would be tried again without end
    assert ask(f"{server}/", pickle.dumps({"images": [b"broken"]}))[0] == 400
    assert not os.path.exists("/tmp/jaxqa-server-was-here")
    with running(pickles=False) as other:
        assert ask(f"{other}/", pickle.dumps({"images": images}))[0] == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        ([], "a JSON list; expected an object"),
        ({}, "images: expected a list"),
        ({"images": []}, "0 images; expected 1 to 8"),
        ({"images": ["AAAA"] * 9}, "9 images; expected 1 to 8"),
        ({"images": [7]}, "image 0: expected"),
        ({"images": ["!!"]}, "image 0: not base64"),
        ({"images": [{"path": "/etc/passwd"}]}, "image 0: expected"),
        ({"images": ["file:///etc/passwd"]}, "expected a data:, http: or https: URL"),
        ({"images": [{"url": "http://127.0.0.1/"}]}, "which this server does not fetch"),
        ({"images": ["AAAA"], "task": "taste"}, "task is 'taste'"),
        ({"images": ["AAAA"], "task": 3}, "expected text"),
        ({"images": ["AAAA"], "mode": "fast"}, "not this model"),
        ({"images": ["AAAA"], "task": "alignment"}, "give prompts"),
        ({"images": ["AAAA"], "prompts": ["a", "b"]}, "2 prompts for 1 images"),
        ({"images": ["AAAA"], "prompt": "x" * 5000}, "longer than 4000 characters"),
        ({"images": ["AAAA"], "return": ["everything"]}, "expected a list of rationale"),
        ({"images": ["AAAA"], "seed": 3}, "unknown field 'seed'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_requests(server, body, message):
    status, found = ask(f"{server}/v1/score", body)
    assert status == 400 and message in found["error"]["message"]
    assert str(Path(__file__).parents[2]) not in json.dumps(found)


def test_bombs_and_large_bodies(server):
    status, found = ask(f"{server}/v1/score", {"images": [b64(png(1, (101, 100)))]})
    assert status == 200 and "10000" in found["errors"][0]
    with running(max_body_bytes=1000, max_held_bytes=9000) as small:
        assert ask(f"{small}/v1/score", b"x" * 1001)[0] == 413
        chunks = http.client.HTTPConnection(small.removeprefix("http://"), timeout=10)
        chunks.request("POST", "/v1/score", iter([b"x" * 600] * 2), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        assert chunks.getresponse().status == 413
        chunks.close()
        assert ask(f"{small}/v1/score", {"images": ["AAAA"]})[0] == 200


def test_all_bodies_together_are_bounded():
    """One client after another sends half of a request; there is room for two such."""
    with running(max_body_bytes=1000, max_held_bytes=1300, read_timeout=2.0) as url:
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 700\r\n\r\n"
        with contextlib.ExitStack() as stack:
            slow = [
                stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
                for _ in range(3)
            ]
            for connection in slow:
                connection.sendall(head + b" " * 600)
                time.sleep(0.1)
            reply = slow[2].recv(1000)
            assert b" 429 " in reply and b"retry-after: 1" in reply
            assert b" 408 " in slow[0].recv(1000) and b" 408 " in slow[1].recv(1000)
        assert ask(f"{url}/v1/score", {"images": ["AAAA"]})[0] == 200  # they hold nothing any more
        assert ask(f"{url}/v1/score", b" " * 900 + b"{}")[0] == 400


def test_slow_clients_are_left(server):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert ask(f"{server}/health")[0] == 200
        assert b" 408 " in slow.recv(1000)


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_clients_that_never_finish_a_head_are_left(server, before):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(before)
        if before:
            assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\n")
        begun = time.monotonic()
        assert slow.recv(1000) == b"" and time.monotonic() - begun < 8


def test_a_stopping_server_answers_who_is_about_to_ask():
    """Some have sent half of a head, some nothing yet; one never sends, one waits between two."""
    body = json.dumps({"images": [b64(png(51))]}).encode()
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        with running() as url:
            address = url.removeprefix("http://").split(":")
            made = [socket.create_connection(address, timeout=10) for _ in range(6)]
            *asking, silent, idle = map(stack.enter_context, made)
            for connection in asking[:2]:
                connection.sendall(head[:20])
            idle.sendall(head + body)
            assert b"200 OK" in idle.recv(1000)

            def go_on():
                for number, connection in enumerate(asking):
                    connection.sendall((head + body)[20 * (number < 2) :])

            later = threading.Timer(0.4, go_on)
            begun = time.monotonic()
            later.start()
        assert time.monotonic() - begun < 8  # nobody was waited for longer than for a head
        for connection in asking:
            with connection.makefile("rb") as reply:
                found = reply.read()  # to the end: the server has closed it
            assert found.startswith(b"HTTP/1.1 200") and b'"errors":[null]' in found
        assert silent.recv(10) == idle.recv(1000) == b""


def test_an_answer_may_take_longer_than_a_head():
    class Late(Slow):
        seconds = 0.8

    with running(Late(), read_timeout=0.4) as url:
        assert ask(f"{url}/v1/score", {"images": [b64(png(0))]})[0] == 200


def test_a_key_is_asked_for():
    with running(key=KEY) as url:
        body = {"images": [b64(png(0))]}
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {KEY}"}):
            status, found = ask(f"{url}/v1/score", body, headers=headers)
            assert status == 401 and "Authorization" in found["error"]["message"]
        assert ask(f"{url}/metrics")[0] == 401 and ask(f"{url}/health")[0] == 200
        assert ask(f"{url}/v1/score", body, headers={"Authorization": f"Bearer {KEY}"})[0] == 200
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        assert len(list(client.models.list())) == 3
        client.close()


class Slow(StandInAsker):
    """Takes its time."""

    seconds = 0.05

    def collect(self, running):
        time.sleep(self.seconds)
        return super().collect(running)


class Gated(StandInAsker):
    """Waits at the gate."""

    def __init__(self):
        super().__init__(rows=1)
        self.gate = threading.Event()
        self.gate.set()

    def collect(self, running):
        self.gate.wait(20)
        return super().collect(running)


def test_a_full_queue_says_when_to_come_again():
    asker = Gated()
    with running(asker) as url, ThreadPoolExecutor(5) as clients:
        asker.gate.clear()
        body = json.dumps({"images": [b64(png(0))] * 8}).encode()
        taken = [clients.submit(ask, f"{url}/v1/score", body) for _ in range(5)]  # 40 images
        deadline = time.monotonic() + 20
        while b"jaxqa_pending_images 40.0" not in ask(f"{url}/metrics")[1]:
            assert time.monotonic() < deadline
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/v1/score", body, timeout=20)
        with caught.value as refused:
            assert refused.code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 60
            assert "try again in" in json.loads(refused.read())["error"]["message"]
        asker.gate.set()
        assert [future.result()[0] for future in taken] == [200] * 5


def test_a_late_answer_is_an_error():
    class Late(Slow):
        seconds = 1.5

    with running(Late(), timeout=0.4) as url:
        status, found = ask(f"{url}/v1/score", {"images": [b64(png(0))]})
        assert status == 504 and "no answer within 0.4 s" in found["error"]["message"]


def test_a_failing_model_says_nothing_of_itself():
    class Failing(StandInAsker):
        broken = False

        def collect(self, running):
            if self.broken:
                raise RuntimeError("secret /path/of/mine")
            return super().collect(running)

    asker = Failing()
    with running(asker) as url:
        asker.broken = True
        status, found = ask(f"{url}/v1/score", {"images": [b64(png(0))]})
        assert status == 500 and "secret" not in json.dumps(found)
        asker.broken = False
        assert ask(f"{url}/v1/score", {"images": [b64(png(0))]})[0] == 200


def test_metrics_and_description(server):
    ask(f"{server}/nowhere/{time.time()}")
    status, text = ask(f"{server}/metrics")
    assert status == 200 and b"jaxqa_images_total" in text and b"jaxqa_pending_images" in text
    assert b"jaxqa_compilations " in text
    assert b'path="other",status="404"' in text and b"nowhere" not in text
    status, document = ask(f"{server}/openapi.json")
    assert document["openapi"].startswith("3.") and "/v1/score" in document["paths"]
    status, page = ask(f"{server}/docs")
    assert status == 200 and all(path in page.decode() for path in document["paths"])
    assert b"http://" not in page and b"https://" not in page  # it works without the internet


def test_the_page_escapes_names():
    text = page(description("<script>", ["quality"]))
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_64_clients_with_good_and_hostile_requests(server):
    def client(seed):
        random = np.random.default_rng(seed)
        for _ in range(6):
            if random.random() < 0.3:
                hostile = [b"{", json.dumps({"images": ["!"]}).encode(), os.urandom(500)]
                assert ask(f"{server}/v1/score", hostile[random.integers(3)])[0] == 400
                continue
            levels = random.integers(0, 256, random.integers(1, 4)).tolist()
            broken = random.integers(0, len(levels) + 3)
            images = [
                b64(b"nothing" if n == broken else png(level, (8 + level % 3, 8)))
                for n, level in enumerate(levels)
            ]
            status, found = 429, {}
            while status == 429:
                status, found = ask(f"{server}/v1/score", {"images": images})
            wanted = [None if n == broken else expected(level) for n, level in enumerate(levels)]
            assert status == 200 and found["scores"] == wanted
        return True

    with ThreadPoolExecutor(64) as clients:
        assert all(clients.map(client, range(64)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=0.0.0.0"], "set JAXQA_API_KEY to the key that clients must send"),
        (["--warm_up=big"], "expected WIDTHxHEIGHT"),
        (["--warm_up", "all", "8x8"], "or all alone"),
        (["--max_megapixels=0"], "expected at least 1"),
        ([], "nowhere is not a directory"),
    ],
)
def test_bad_flags(capsys, arguments, message):
    assert serve.main(["--model=nowhere", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_modes_that_are_served():
    """Those alone can be chosen, and each is asked once for every task and size before ready."""
    lines = []
    service = Service(
        ImageScorer(WritingModel()), name="tiny", modes=("fast", "expected"),
        default=Question(mode="expected"),
    )  # fmt: skip
    try:
        assert {task: service.modes(task) for task in service.scorer.tasks} == {
            "quality": ["fast", "expected"],
            "aesthetics": ["expected"],
            "alignment": ["fast", "expected"],
        }
        assert service.question("alignment").mode == "fast"  # its own, think, is not served
        assert service.question("aesthetics").mode == "expected"  # it has no fast
        with pytest.raises(UserError, match="mode 'mean' is not served; expected fast or expected"):
            service.question("quality", "mean")
        service.warm_up([(8, 8), (9, 8)], tell=lines.append)
        ready = [line.split(" for ")[0].removeprefix("compiled ") for line in lines[::2]]
        assert ready == [
            *("quality, fast", "quality, expected", "aesthetics, expected"),
            *("alignment, fast", "alignment, expected", "comparison, one answer"),
        ]
        assert "8 x 9 pixels" in lines[1] and len(lines) == 12
    finally:
        service.batcher.close()
    service = Service(
        ImageScorer(WritingModel()), name="tiny", modes=("fast",), default=Question(mode="fast")
    )
    found = native.models(service)  # aesthetics cannot be asked so
    service.batcher.close()
    assert found["default"]["modes"] == {"quality": "fast", "alignment": "fast"}
    assert list(found["tasks"]) == ["quality", "alignment"]
    with pytest.raises(UserError, match="'think' is the default and none of the modes"):
        Service(ImageScorer(StandInModel()), name="tiny", modes=("mean",))


def test_modes_that_the_model_lacks_are_refused_before_the_start(monkeypatch, capsys):
    monkeypatch.setattr(loading, "load", lambda path, **_: ImageScorer(StandInModel()))
    monkeypatch.setattr(Service, "warm_up", lambda *_: pytest.fail("it began"))
    for modes in (["fast"], ["think", "fast"]):
        assert serve.main(["--model=m", "--modes", *modes]) == 2
        error = capsys.readouterr().err
        assert "this model has no 'fast'; it can be asked quality: think, expected, mean" in error


def test_every_shape_and_answer_is_rehearsed():
    """Also when the model says nothing about the grey pictures, and for texts of any length."""

    class Shaped(StandInAsker):
        rehearsed: ClassVar = []

        def prepare(self, pictures, prompt):
            assert prompt is None or prompt.strip()  # a real asker refuses an empty text
            return StandInRow(0.0, len(prompt or "") // 100 + pictures[0].shape[0])

        def shapes(self, row):
            return [StandInRow(row.brightness, bucket) for bucket in range(row.bucket, 40)]

        def rehearse(self, running):
            self.rehearsed.append(running[0].bucket)

    def rehearsed(sizes):
        Shaped.rehearsed.clear()
        service = Service(ImageScorer(StandInModel(Shaped())), name="tiny", modes=("think",))
        service.warm_up(sizes)
        service.batcher.close()
        return Shaped.rehearsed

    # quality has no text; alignment has 1 to 80 words
    assert rehearsed([(8, 8), (9, 8)]) == [8, 9, *range(8, 13), *range(9, 14)]
    assert rehearsed(None) == [*range(28, 40)] * 2


def test_loopback():
    assert all(map(serve.is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(serve.is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))


def test_sigterm_finishes_what_was_taken(tmp_path):
    """The door itself, in a process of its own."""
    program = tmp_path / "door.py"
    program.write_text(
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[1] / 'scoring')!r})\n"
        "from stand_in import StandInAsker, StandInModel\n"
        "from jaxqa.cli import serve\nfrom jaxqa.scoring.api import ImageScorer\n"
        "from jaxqa.serving import loading\n"
        "class Slow(StandInAsker):\n"
        "    def collect(self, running):\n"
        "        time.sleep(1)\n        return super().collect(running)\n"
        "loading.load = lambda path, **_: ImageScorer(StandInModel(Slow()))\n"
        "sys.exit(serve.main(sys.argv[1:]))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(program), "--model=m", f"--port={port}", "--warm_up", "8x8"]
    command += ["--modes", "mean"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if ask(f"{url}/health")[0] == 200:
                    break
            time.sleep(0.1)
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(ask, f"{url}/v1/score", {"images": [b64(png(0))] * 3})
            time.sleep(0.4)
            process.send_signal(signal.SIGTERM)
            assert answer.result()[1]["scores"] == [1.0] * 3
            assert answer.result()[1]["mode"] == "mean"  # not the model's own, which is not served
        _, errors = process.communicate(timeout=30)
        assert errors.decode().count("compiled ") == 2  # once for each task
    assert process.returncode in (0, -signal.SIGTERM), errors


def test_the_launcher_opens_the_door():
    command = [sys.executable, str(LAUNCHER), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for flag in (
        "--model",
        "--port",
        "--flow_grpo",
        "--ui",
        "--max_megapixels",
        "--max_queue",
        "--api_key_env",
    ):
        assert flag in result.stdout


def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_stays_flat_over_20000_requests(server):
    bodies = [json.dumps({"images": [b64(png(level))]}).encode() for level in range(0, 256, 5)]
    bodies += [b"{", json.dumps({"images": [b64(b"nothing" * 1000)]}).encode()]

    def client(count):
        connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=20)
        for number in range(count):
            connection.request("POST", "/v1/score", bodies[number % len(bodies)])
            reply = connection.getresponse()
            assert reply.status in (200, 400) and reply.read()
        connection.close()

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, [500] * 8))
        before = resident_megabytes()
        list(clients.map(client, [2500] * 8))
    assert resident_megabytes() - before < 20
