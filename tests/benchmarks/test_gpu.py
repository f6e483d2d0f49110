"""How the GPU script goes on where something fails; what it finds is not looked at."""

import json
import time

import gpu
import gpu_parts
import gpu_training
import jax
import jax.numpy as jnp
import pytest
from counting import kept_bytes
from gpu_parts import PRESETS, Bench, Figure


def bench(preset="tiny", **options):
    settings = {"rounds": 1, "remat": "attention", "optimizer": "adafactor"} | options
    return Bench(preset=PRESETS[preset], **settings)


def fail():
    raise NotImplementedError("no such kernel")


def test_every_figure_stands_alone(tmp_path):
    path = tmp_path / "gpu.json"
    record = gpu.Record(path, {"device": "none"})

    def part(_):
        yield Figure("first", 1, lambda: {"ms": 1.5})
        assert json.loads(path.read_text()) == {"device": "none", "part": {"first": {"ms": 1.5}}}
        yield Figure("broken", 1, fail)
        yield Figure("long", 1000, fail)
        yield Figure("last", 1, lambda: {"ms": 2.5})
        raise ValueError("no room")

    gpu.measure(record, "part", part, bench(), until=time.monotonic() + 100)
    found = json.loads(path.read_text())["part"]
    assert found["broken"] == {"error": "NotImplementedError: no such kernel"}
    assert found["long"]["skipped"].startswith("takes about 1000 seconds")
    assert found["last"] == {"ms": 2.5} and found["error"] == "ValueError: no room"
    assert [file.name for file in tmp_path.iterdir()] == ["gpu.json"]


def test_auto_attention_falls_back_and_says_why(monkeypatch):
    def probe(bench):
        if bench.attention != "chunked":
            fail()

    monkeypatch.setattr(gpu_parts, "_probe", probe)
    tried = bench()
    found = dict(gpu_parts.choose_attention(tried, "auto"))
    assert found == {"auto": "NotImplementedError: no such kernel", "taken": "chunked"}
    assert tried.attention == "chunked"
    assert dict(gpu_parts.choose_attention(tried, "xla")) == {"taken": "xla"}


def test_peaks_are_of_whole_names():
    assert "NVIDIA H200" in gpu.PEAKS and "NVIDIA GH200 480GB" not in gpu.PEAKS


def test_what_a_backward_pass_keeps_is_counted():
    def function(weight):
        return jnp.sin(jnp.ones((3, 5)) @ weight).sum()  # keeps a cosine, and the ones

    assert kept_bytes(function, jax.ShapeDtypeStruct((5, 7), jnp.float32)) == 4 * (3 * 7 + 3 * 5)


@pytest.mark.parametrize(
    ("options", "total"), [({}, 104), ({"optimizer": "adamw", "remat": "full"}, 132)]
)
def test_the_plan_of_7b_fits_an_h200(options, total):
    found = gpu_training.expected_gib(bench("7b", **options), "chunked")
    assert found["total_gib"] == pytest.approx(total, abs=1) and found["total_gib"] < 135
