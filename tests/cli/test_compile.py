"""The door `compile`: a tiny run on virtual devices, and what it refuses."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from jaxqa.cli.compile import DOES_NOT_FIT_STATUS, main
from jaxqa.objectives.log_probabilities import DEFAULT_CHUNK_SIZE
from jaxqa.stages import ahead, compiled

CONFIG = Path(__file__).parent.parent / "stages" / "tiny_run.py"
# The vocabulary, and half of it, is more than one chunk: else the logits are kept by design.
WIDE = (
    *("--config.model.text.vocab_size=10000", "--config.model.text.num_hidden_layers=3"),
    *("--config.data.buckets.prompt_lengths=(160,)", "--config.grpo.sampling.max_new_tokens=64"),
)
FINDING = ahead.Finding(
    program="update",
    memory=compiled.Memory(
        arguments=2**30, outputs=2**30, aliased=2**30, planned=3 * 2**29, program=0
    ),
    refusal=None,
    beside=2**28,
    donated=2**30,
    honoured=True,
    gather=None,
    reduction=None,
    logits=None,
    seconds=1.0,
)


def run(*flags, topology="cpu:4"):
    return main([f"--config={CONFIG}:nowhere", f"--topology={topology}", *flags])


def programs(tmp_path, *flags):
    status = run(f"--json={tmp_path / 'found.json'}", *flags)
    return status, json.loads((tmp_path / "found.json").read_text())


CHUNK_BYTES = 4 * DEFAULT_CHUNK_SIZE * 32
"""One chunk of the tiny model's head; a layer is smaller, the table larger."""


@pytest.mark.parametrize("mesh", [(4, 1), (2, 2)], ids=["fsdp", "fsdp x tensor"])
@pytest.mark.slow
def test_an_update_gathers_layers_and_streams_its_logits(tmp_path, capsys, mesh):
    flags = (f"--config.mesh.fsdp={mesh[0]}", f"--config.mesh.tensor={mesh[1]}")
    status, found = programs(tmp_path, *WIDE, *flags, "--stage=grpo", "--program=update")
    (update,) = found["programs"]
    assert status == 0 and update["fits"]
    assert update["donation_honoured"] and update["donated"] > 0
    assert update["bytes"]["aliased"] == update["donated"]
    assert update["logits"] is None
    assert 0 < update["largest_all_gather"]["bytes"] <= CHUNK_BYTES
    assert update["largest_all_reduce"]["op"] == "all-reduce"
    shown = capsys.readouterr().out
    assert (
        "largest all-gather" in shown
        and "largest all-reduce" in shown
        and "grpo: GiB on a chip" in shown
    )


@pytest.mark.slow
def test_every_program_of_every_stage_gives_back_what_it_was_given(tmp_path):
    status, found = programs(tmp_path, *WIDE, "--config.mesh.fsdp=4")
    assert status == 0
    assert [(p["stage"], p["program"]) for p in found["programs"]] == [
        *(("warmup", "update"), ("sft", "update")),
        *(("grpo", "rollout"), ("grpo", "reference"), ("grpo", "update")),
    ]
    for program in found["programs"]:
        assert program["donation_honoured"], program
        assert program["logits"] is None, program
    rollout = found["programs"][2]
    assert rollout["beside"] > 0 and rollout["donated"] == 0


@pytest.mark.slow
def test_what_an_optimizer_never_reads_is_no_lost_memory(tmp_path):
    flags = ("--config.sft.optimizer.rule=adafactor", "--config.sft.optimizer.beta1=0.0")
    status, found = programs(tmp_path, *flags, "--config.mesh.fsdp=4", "--stage=sft")
    (update,) = found["programs"]
    assert status == 0 and update["donation_honoured"]
    assert update["bytes"]["aliased"] < update["donated"]


@pytest.mark.slow
def test_a_rollout_is_compiled_as_training_runs_it(tmp_path):
    """Two stretches: the first with prefill, and the last, which gets the cache for good."""
    longer = "--config.grpo.sampling.max_new_tokens=200"
    names = ("rollout", "prefill", "decode")
    wanted = [f"--program={name}" for name in names]
    status, found = programs(tmp_path, *WIDE, longer, "--config.mesh.fsdp=4", *wanted)
    whole, prefill, decode = found["programs"]
    assert status == 0 and [p["program"] for p in found["programs"]] == list(names)
    assert decode["donation_honoured"] and decode["donated"] > 0 == prefill["donated"]
    assert max(prefill["total"], decode["total"]) <= 1.05 * whole["total"]


@pytest.mark.parametrize("limit, status", [(1.75, 0), (1.74, DOES_NOT_FIT_STATUS)])
def test_what_waits_beside_a_program_counts(monkeypatch, tmp_path, limit, status):
    monkeypatch.setattr(ahead, "compile_program", lambda *_: FINDING)
    found = programs(tmp_path, "--config.mesh.fsdp=4", "--stage=sft", f"--limit={limit}")
    assert found[0] == status
    assert found[1]["programs"][0]["total"] == 1.75 * 2**30


def test_memory_that_is_donated_and_not_reused_is_a_failure(monkeypatch, capsys):
    wasted = dataclasses.replace(FINDING, honoured=False)
    monkeypatch.setattr(ahead, "compile_program", lambda *_: wasted)
    assert run("--config.mesh.fsdp=4", "--stage=sft") == DOES_NOT_FIT_STATUS
    assert "NO (1.000)" in capsys.readouterr().out


@pytest.mark.parametrize(("vocabulary", "status"), [(4096, 0), (10000, DOES_NOT_FIT_STATUS)])
def test_logits_kept_whole_are_a_failure_unless_one_chunk_holds_them(
    monkeypatch, vocabulary, status
):
    kept = compiled.Buffer(op="dot", origin="", dtype="f32", shape=(9, 160, vocabulary))
    finding = dataclasses.replace(FINDING, logits=kept)
    monkeypatch.setattr(ahead, "compile_program", lambda *_: finding)
    size = f"--config.model.text.vocab_size={vocabulary}"
    assert run(size, "--config.mesh.fsdp=4", "--stage=sft") == status


def test_a_refusal_of_the_compiler_does_not_fit(monkeypatch, capsys):
    refused = dataclasses.replace(FINDING, memory=None, refusal="Ran out of memory on HBM")
    monkeypatch.setattr(ahead, "compile_program", lambda *_: refused)
    assert run("--config.mesh.fsdp=4", "--stage=sft") == DOES_NOT_FIT_STATUS
    assert "the compiler refuses: Ran out of memory on HBM" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, topology, message",
    [
        ((), "v9z:2x2", "--topology: got 'v9z:2x2'; expected one of v5e, v5p, v6e"),
        ((), "v5e", "expected one of v5e, v5p, v6e with a shape, such as v5e:8x8"),
        ((), "cpu:400", "found 8 virtual devices; ask for fewer"),
        ((), "cpu:4", "config.mesh takes 1 devices and cpu:4 has 4; set config.mesh.data, fsdp"),
        (("--config.mesh.fsdp=8",), "cpu:4", "8 x 1 devices wanted, 4 found"),
        (("--stage=grop",), "cpu:1", "--stage: no stage 'grop'; this run has warmup, sft, grpo"),
        (("--preset=8B",), "cpu:1", "--preset: got '8B'; expected one of tiny, 3b, 7b, 32b, 72b"),
        (("--layers=9",), "cpu:1", "--layers: got 9; the model has 1 text layers"),
        (("--program=decode",), "cpu:1", "no stage of grpo has decode; a rollout of one stretch"),
        (("--config.grpo.batch_size=6",), "cpu:4", "rows of a micro-batch of config.grpo is 6"),
        (("--config.grpo.batch_sise=6",), "cpu:4", "has no key 'batch_sise'"),
    ],
)
def test_refusals(capsys, flags, topology, message):
    mesh = ("--config.mesh.fsdp=4",) if "config.grpo" in "".join(flags) else ()
    only = () if any(flag.startswith("--stage") for flag in flags) else ("--stage=grpo",)
    assert run(*mesh, *only, *flags, topology=topology) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_a_model_that_is_not_there_can_be_named(capsys):
    flags = ("--config=configs/q_insight.py", "--topology=cpu:8")
    assert main(flags) == 2
    assert "--preset=7B compiles without the model's files" in capsys.readouterr().err


def test_a_missing_compiler_says_how_to_get_it(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else real(name, *a)
    )
    assert run("--config.mesh.fsdp=4", topology="v5e:2x2") == 2
    assert "needs the TPU compiler, not a TPU: pip install 'jaxqa[tpu]'" in capsys.readouterr().err
