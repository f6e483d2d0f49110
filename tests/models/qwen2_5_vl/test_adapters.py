"""Adapters against hand-written ones in torch, loaded by the names that PEFT writes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from qwen_fixtures import SMALL, TorchTwin, jit, make_prompt, perturb, relative_error
from safetensors.numpy import load_file

from jaxqa import sharding, tree
from jaxqa.models.qwen2_5_vl import adapters, layout
from jaxqa.models.qwen2_5_vl.inputs import stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.nn.lora import LoraConfig
from jaxqa.train.optimizer import OptimizerConfig, make_optimizer
from jaxqa.train.state import create_state

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LORA = LoraConfig(
    rank=3, alpha=4.5, targets=("model/layers/.*", r"visual/blocks/attn/.*", "visual/merger/fc2")
)
PLAIN, MODEL = Qwen2_5_VL(config=SMALL), Qwen2_5_VL(config=SMALL, lora=LORA)
NAMES = ("ragged", "text only")


@pytest.fixture(scope="module")
def params():
    """Every parameter large and random, A and B too."""
    drawn = perturb(jax.device_get(jit(MODEL.init)(jax.random.key(0))))
    leaves = tree.flatten(jax.tree.map(jnp.asarray, drawn))
    return tree.unflatten({p: leaf * (0.1 if "lora_b" in p else 1) for p, leaf in leaves.items()})


@pytest.fixture(scope="module")
def prompts():
    made = [make_prompt(name, SMALL, 1) for name in NAMES]
    rows = [layout.build_row(*prompt, SMALL) for prompt in made]
    return made, jax.tree.map(jnp.asarray, stack_rows(rows, prompt_length=48, num_windows=6))


def logits_of(model, params, batch):
    return model.prompt_hidden(params, batch) @ model.head(params).T


class Adapted(torch.nn.Module):
    """A linear map with A and B beside it."""

    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = torch.nn.Parameter(a), torch.nn.Parameter(b)

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.a.T) @ self.b.T


def adapt(model, folder):
    """Put the adapters of a PEFT directory into a torch model, by their names."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    made = {}
    for module in config["target_modules"]:
        a, b = (
            torch.from_numpy(tensors.pop(f"base_model.model.{module}.{name}.weight"))
            for name in ("lora_A", "lora_B")
        )
        parent, _, leaf = module.rpartition(".")
        scale = config["lora_alpha"] / config["r"]
        made[module] = Adapted(model.get_submodule(module), a, b, scale)
        setattr(model.get_submodule(parent), leaf, made[module])
    assert not tensors
    return made


def test_logits_and_gradients_against_torch_with_what_peft_would_load(params, prompts, tmp_path):
    adapters.save_peft(tmp_path / "adapter", params, LORA, base="somewhere")
    twin = TorchTwin(SMALL, adapters.without_adapters(params))
    made = adapt(twin.model, tmp_path / "adapter")
    layers, blocks = SMALL.text.num_hidden_layers, SMALL.vision.depth
    assert len(made) == 7 * layers + 2 * blocks + 1
    inputs = twin.inputs(prompts[0])
    real = inputs["attention_mask"].numpy().astype(bool)
    expected = twin.model(**inputs).logits
    weights = np.random.default_rng(2).standard_normal(expected.shape).astype(np.float32)
    weights *= real[..., None]
    (expected * torch.from_numpy(weights)).sum().backward()

    trained, base = tree.split(params, adapters.is_adapter)
    padded = np.pad(weights, ((0, 0), (0, 48 - real.shape[1]), (0, 0)))

    def loss(trained):
        logits = logits_of(MODEL, tree.join(trained, base), prompts[1])
        return (logits * padded).sum(), logits

    grads, logits = jit(jax.grad(loss, has_aux=True))(trained)
    found = np.asarray(logits)[:, : real.shape[1]]
    assert relative_error(found[real], expected.detach().numpy()[real]) < 1e-4
    ours = adapters._peft_tensors(grads)
    for module, adapted in made.items():
        for name, parameter in (("lora_A", adapted.a), ("lora_B", adapted.b)):
            gradient = ours[f"base_model.model.{module}.{name}.weight"]
            assert relative_error(gradient, parameter.grad.numpy()) < 1e-3, module


def test_fresh_adapters_change_nothing_and_merged_ones_nothing_but_the_form(params, prompts):
    compute = jit(logits_of, static_argnums=0)
    trained, base = tree.split(params, adapters.is_adapter)
    fresh, _ = tree.split(jit(MODEL.init)(jax.random.key(1)), adapters.is_adapter)
    plain = compute(PLAIN, base, prompts[1])
    np.testing.assert_array_equal(compute(MODEL, tree.join(base, fresh), prompts[1]), plain)
    for path, leaf in tree.flatten(fresh).items():
        bound = 0 if path.endswith("lora_b") else 1 / np.sqrt(leaf.shape[-2])
        assert np.abs(leaf).max() <= bound and (np.abs(leaf).max() > 0.9 * bound or not bound)

    merged = adapters.merge(params, LORA)
    assert merged.keys() == base.keys() and not np.allclose(
        plain, compute(PLAIN, merged, prompts[1])
    )
    expected = compute(MODEL, params, prompts[1])
    assert relative_error(compute(PLAIN, merged, prompts[1]), expected) < 1e-4
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(adapters.merge(half, LORA)))


def test_only_adapters_have_moments_and_every_leaf_has_a_place():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    everywhere = dataclasses.replace(LORA, targets=(".*",), rank=4)
    model = dataclasses.replace(MODEL, lora=everywhere)
    abstract = model.abstract_params()
    places = sharding.tree_shardings(abstract, sharding.QWEN2_5_VL_RULES, mesh)
    flat = tree.flatten(places)
    for path in ("model/layers/self_attn/q_proj", "visual/blocks/mlp/up_proj"):
        assert flat[f"{path}/lora_a"].spec == P(None, "fsdp", None)
        assert flat[f"{path}/lora_b"].spec == P(None, None, "tensor")
    kernels = {path.rpartition("/")[0] for path in flat if path.endswith("kernel")}
    assert {path.rpartition("/")[0] for path in flat if adapters.is_adapter(path)} == kernels - {
        "visual/patch_embed/proj"
    }
    params = jax.device_put(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract), places
    )
    optimizer = make_optimizer(OptimizerConfig(), 3)
    state = create_state(params, optimizer, trained=adapters.is_adapter)
    trained = tree.split(params, adapters.is_adapter)[0]
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert moments == pytest.approx(2 * tree.count_bytes(trained), abs=64)


@pytest.mark.parametrize(
    "wrong", [{"rank": -1}, {"rank": 2, "alpha": 0.0}, {"rank": 2, "targets": ("(",)}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match="rank must be|is no pattern"):
        LoraConfig(**wrong)


def test_a_pattern_that_matches_nothing_is_named():
    model = dataclasses.replace(MODEL, lora=LoraConfig(rank=1, targets=("layers/.*",)))
    with pytest.raises(ValueError, match="'layers/.*' matches no linear map; there are .*q_proj"):
        model.abstract_params()
