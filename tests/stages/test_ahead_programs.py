"""What `jaxqa compile` counts on a chip is what training keeps there: checked with real arrays."""

import dataclasses
import math

import jax
import pytest
import tiny_run

from jaxqa import sharding, tree
from jaxqa.models.qwen2_5_vl import parts
from jaxqa.models.qwen2_5_vl.adapters import is_adapter, without_adapters
from jaxqa.stages import abstract, adapters, ahead, ahead_programs, compiled, programs
from jaxqa.stages.config import parse_config
from jaxqa.train.state import create_state

LORA = {"rank": 4, "targets": ("model/layers/.*",)}


def run_of(**grpo):
    config = tiny_run.get_config("nowhere")
    config.stages = ("sft", "grpo")
    config.model.compute_dtype = "bfloat16"
    config.grpo.update({k: v for k, v in grpo.items() if k != "lora"})
    if "lora" in grpo:
        for stage in (config.sft, config.grpo):
            stage.lora.update(grpo["lora"])
    return parse_config(config)


def one_device():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])


def found(run, mesh):
    shape = ahead.architecture(run.model, preset=None, layers=None)
    return {p.name: p for p in ahead_programs.stage_programs(run, "grpo", shape, mesh)}


def real_state(run, mesh):
    """The training state as a stage makes it, and the bfloat16 copy that its rollout reads."""
    shape = ahead.architecture(run.model, preset=None, layers=None)
    lora = adapters.lora_of(run, "grpo")
    model = dataclasses.replace(run.model.policy(shape, mesh), lora=lora)
    params = jax.device_put(model.init(jax.random.key(0)), sharding.replicated(mesh))
    if lora.rank:
        trained, base = tree.split(params, is_adapter)
        params = tree.join(trained, parts.compute_copy(base, "bfloat16", own=False))
    training = programs.training(model, run.sections["grpo"], mesh, params)
    state = create_state(params, training.optimizer, trained=training.trained)
    return state, parts.compute_copy(params, "bfloat16", own=False)


def bytes_read(program):
    """Bytes of the program's parameters, the first of its arguments."""
    parameters = jax.tree.leaves(program.lower().args_info[0][0])
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in parameters)


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize(
    "grpo, kept_of",
    [
        ({}, lambda copy: copy),
        ({"lora": LORA}, lambda copy: tree.split(copy, is_adapter)[0]),
        ({"lora": LORA, "reference": "initial"}, lambda copy: {}),
        ({"objective": {"beta": 0.0}}, lambda copy: {}),
    ],
    ids=["full", "adapters", "adapters off", "no penalty"],
)
def test_what_waits_is_what_training_keeps(grpo, kept_of, placement):
    run, mesh = run_of(**grpo, reference_placement=placement), one_device()
    state, copy = real_state(run, mesh)
    kept = tree.count_bytes(kept_of(copy))
    waiting = 0 if placement == "host" else kept
    masters, copies = jax.tree.leaves(state.params), jax.tree.leaves(copy)
    twice = [a for a, b in zip(masters, copies, strict=True) if a.dtype != b.dtype]
    program = found(run, mesh)
    moments = tree.count_bytes(state.opt_state)
    assert program["rollout"].beside == moments + tree.count_bytes(twice) + waiting
    assert program["update"].beside == waiting
    assert ("reference" in program) == bool(run.sections["grpo"].objective.beta)
    if "reference" in program:
        lora = "lora" in grpo
        shared = tree.count_bytes(without_adapters(state.params)) if lora else 0
        assert program["reference"].beside == tree.count_bytes(state) - shared


def test_a_policy_gathered_for_sampling_lies_beside_the_split_one():
    base, beside = run_of(), []
    model = dataclasses.replace(base.model, compute_dtype="float32")  # else the copy is a cast
    for gathers in (False, True):
        sizes = sharding.MeshConfig(fsdp=2, gather_for_sampling=gathers)
        run, mesh = dataclasses.replace(base, mesh=sizes, model=model), sharding.make_mesh(sizes)
        beside.append(found(run, mesh)["rollout"].beside)
    shape = ahead.architecture(model, preset=None, layers=None)
    policy = jax.tree.leaves(abstract.policy(model.policy(shape, mesh), mesh))
    split = [leaf for leaf in policy if "fsdp" in str(leaf.sharding.spec)]
    assert split and beside[1] - beside[0] == compiled.bytes_on_chip(split)


def test_programs_read_the_parameters_that_training_gives_them():
    run, mesh = run_of(lora=LORA), one_device()
    _, copy = real_state(run, mesh)
    program = found(run, mesh)
    assert bytes_read(program["rollout"]) == tree.count_bytes(copy)
    assert bytes_read(program["reference"]) == tree.count_bytes(copy)
