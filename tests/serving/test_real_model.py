"""A real (tiny) model behind the server: several devices, start, end, and many clients."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from local_server import ask, b64, running

import jaxqa
from jaxqa.data.prompts import get_template
from jaxqa.files import write_json
from jaxqa.scoring.manifest import Manifest, manifest_values
from jaxqa.serving.compilations import Compilations
from jaxqa.serving.service import Service
from jaxqa.sharding import MeshConfig

ROOT = Path(__file__).parents[2]
# Of processes that see one device, as users have it, and compile as quickly as the tests do.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
SIZE = (56, 56)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tiny_model.make_model(tmp_path_factory.mktemp("models") / "tiny")
    asked = Manifest(templates={"quality": get_template("concise")}, max_new_tokens=12)
    write_json(directory / "jaxqa.json", manifest_values(asked))
    return directory


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [tiny_model.write_image(folder / f"{n}.png", SIZE, n).read_bytes() for n in range(24)]


@pytest.mark.slow
def test_blocks_are_spread_over_devices(model, images):
    """Eight devices, a row on each: the same scores as one device gives, whoever asks with whom."""
    one = jaxqa.load(model, mesh=MeshConfig(data=1), block_rows=8)
    eight = jaxqa.load(model, mesh=MeshConfig(data=8), block_rows=8)
    wanted = [score.score for score in one.score(images)]
    assert len(set(wanted)) > 3
    asker = eight.asker(eight.question())
    row = asker.prepare([np.full((*SIZE, 3), 7, np.uint8)], None)
    _, _, rollout = asker.dispatch([row])
    places = {
        shard.device.id: shard.data.shape[0] for shard in rollout.token_ids.addressable_shards
    }
    assert places == dict.fromkeys(range(8), 1)
    with running(model=eight.model) as url, ThreadPoolExecutor(8) as clients:

        def client(numbers):
            body = {"images": [b64(images[number]) for number in numbers]}
            return ask(f"{url}/v1/score", body)[1]["scores"]

        asked = [np.random.default_rng(seed).permutation(24)[: 1 + seed % 5] for seed in range(24)]
        for numbers, scores in zip(asked, clients.map(client, asked), strict=True):
            assert scores == [wanted[number] for number in numbers]


@pytest.mark.slow
def test_nothing_is_compiled_after_the_warm_up(model, images, monkeypatch):
    """Not even where the model says nothing of the grey picture, and has a score for others."""
    scorer = jaxqa.load(model, mesh=MeshConfig(data=1), block_rows=2)
    expected = scorer.question(mode="expected")
    service = Service(scorer, name="tiny", modes=("expected",), default=expected)
    with monkeypatch.context() as quiet:
        quiet.setattr("jaxqa.scoring.scorer.cut_before_number", lambda *_: None)
        service.warm_up([SIZE])
    ready = Compilations()
    found = asyncio.run(service.score(expected, images[:3], [None] * 3))
    service.batcher.close()
    assert all(score.distribution for score in found) and not ready.count


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_the_door_opens_when_all_is_compiled_and_closes_when_all_is_answered(
    model, images, tmp_path
):
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, str(ROOT / "launchers/serve.py"), f"--model={model}"]
    command += [f"--port={port}", "--warm_up", "56x56", "--block_rows=2"]
    environment = {**ENVIRONMENT, "JAX_LOG_COMPILES": "1"}
    with (
        open(log, "w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as process,
    ):
        with pytest.raises(OSError):  # not yet: nobody is sent to a server that still compiles
            socket.create_connection(("127.0.0.1", port), timeout=1)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"serving tiny on http://127.0.0.1:{port}")
        before = log.read_text()
        assert "Compiling" in before
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while True:
            try:
                assert ask(f"{url}/health") == (200, {"status": "ok"})
                break
            except OSError:
                assert time.monotonic() < deadline
        for mode in ("think", "fast", "expected", "mean"):  # all are compiled
            body = {"images": [b64(images[0])], "mode": mode}
            assert ask(f"{url}/v1/score", body)[1]["errors"] == [None], mode
        body = {"images": [b64(image) for image in images]}
        with ThreadPoolExecutor(6) as clients:
            answers = [clients.submit(ask, f"{url}/v1/score", body) for _ in range(6)]
            while b"jaxqa_pending_images 0.0" in ask(f"{url}/metrics")[1]:
                assert time.monotonic() < deadline
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            found = [answer.result() for answer in answers]
        assert [status for status, _ in found] == [200] * 6
        scores = found[0][1]["scores"]
        assert None not in scores and all(each["scores"] == scores for _, each in found)
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    after = log.read_text()[len(before) :]
    assert "Compiling" not in after, after


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_64_clients_get_no_wrong_score(model):
    """The benchmark itself, small: good and hostile requests of all protocols."""
    command = [sys.executable, str(ROOT / "benchmarks/server_load.py"), f"--model={model}"]
    command += ["--images=24", "--side=56", "--turns=1", "--seconds=2", "--requests=1000"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    mixed = found["mixed"]
    assert mixed["wrong"] == found["latency_at_half_load"]["wrong"] == 0
    assert mixed["clients"] == 64 and found["distinct_scores"] > 3
    assert mixed["valid"] + mixed["hostile"] + mixed["no_requests"] == 1000
    assert mixed["valid"] > 200 and mixed["hostile"] > 500 and mixed["no_requests"] > 3
    assert mixed["memory_mb"][-1] - mixed["memory_mb"][len(mixed["memory_mb"]) // 2] < 60
