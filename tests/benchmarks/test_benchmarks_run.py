"""That the benchmarks run, on tiny models; what they find is not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

BLOCKED = """
import runpy, sys
for name in ("grain", "ml_collections", "tensorflow_datasets", "transformers", "torch", "PIL"):
    sys.modules[name] = None  # importing it fails
sys.argv = ["gpu.py", "--preset=tiny", "--rounds=1", "--seconds=9999", "--json", sys.argv[1]]
runpy.run_path({path!r}, run_name="__main__")
"""


def run(*words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_gpu_script_runs_without_data_packages(tmp_path):
    code = BLOCKED.format(path=str(BENCHMARKS / "gpu.py"))
    run("-c", code, str(tmp_path / "gpu.json"))
    record = json.loads((tmp_path / "gpu.json").read_text())
    for part in ("training", "decode", "prefill", "clip", "attention"):
        for figure in (record[part], *record[part].values()):
            assert not isinstance(figure, dict) or not {"error", "skipped"} & set(figure), figure
    assert record["training"]["rounds"]["completions_per_second"] > 0
    assert {"2x2_stacked", "2x2_unstacked"} < set(record["decode"])
    assert record["attention_choice"] == {"taken": "auto"}
    assert record["device"] == "cpu cpu" and record["date"] and "gpu.py" in record["command"]


@pytest.mark.slow
def test_the_comparison_of_caches_runs():
    sizes = "--size=tiny --rows=2 --group=2 --tokens=68 --mean=32 --rounds=1".split()
    printed = run(str(BENCHMARKS / "decode_buckets.py"), *sizes)
    assert "4 completions" in printed
    assert all(f"| {name} |" in printed for name in ("one cache", "growing"))


@pytest.mark.slow
@pytest.mark.torch
def test_the_comparison_with_transformers_runs(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    out = tmp_path / "figures.json"
    sizes = "--tokens=4 --side=56 --generation_prompt=16 --training_prompt=16".split()
    script = str(BENCHMARKS / "against_transformers.py")
    sizes.append("--no-torch_compile")
    printed = run(script, "--size=tiny", "--rounds=1", "--json", str(out), *sizes)
    figures = json.loads(out.read_text())
    assert max(figures["training"].pop("gradient_gaps").values()) < 1e-4
    assert len(figures["generation"]) == 8 and len(figures["training"]) == 6
    assert all(name in printed for table in figures.values() for name in table)


@pytest.mark.slow
@pytest.mark.torch
def test_the_comparison_with_trl_runs(tmp_path):
    pytest.importorskip("trl")
    model = tiny_model.make_model(tmp_path / "model")
    out = tmp_path / "figures.json"
    sizes = "--size=own --prompts=2 --group=2 --side=56 --tokens=4 --rounds=1".split()
    script = str(BENCHMARKS / "against_trl.py")
    assert "GRPO step" in run(script, f"--model={model}", "--json", str(out), *sizes)
    figures = json.loads(out.read_text())
    assert set(figures) == {"jaxqa", "trl", "prompt"}
