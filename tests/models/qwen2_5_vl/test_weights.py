"""Checkpoints read and written against `transformers` itself, and bit for bit."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from qwen_fixtures import SMALL, TIED, TorchTwin, make_prompt, perturb
from safetensors.numpy import load_file, save_file

from jaxqa import sharding, tree
from jaxqa.models import safetensors_io, weight_table
from jaxqa.models.qwen2_5_vl import weights
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.models.weight_transforms import PatchKernel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


def draw_params(config):
    abstract = Qwen2_5_VL(config=config).abstract_params()
    return perturb(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract))


def assert_same_bits(actual, expected):
    actual, expected = tree.flatten(actual), tree.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        assert actual[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(
            np.asarray(actual[path]).view(np.uint8), np.asarray(leaf).view(np.uint8), err_msg=path
        )


def random_bits_directory(directory, config, dtype, seed=0):
    """A checkpoint whose tensors hold every kind of bit pattern, NaN payloads included."""
    rng = np.random.default_rng(seed)
    abstract = Qwen2_5_VL(config=config).abstract_params()
    tensors = {}
    for name, slot in weight_table.slots(weights.ROWS, abstract).items():
        size = int(np.prod(slot.shape)) * dtype.itemsize
        tensors[name] = np.frombuffer(rng.bytes(size), dtype).reshape(slot.shape)
    weights.save_pretrained(directory, config, draw_params(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.fixture(scope="module", params=[SMALL, TIED], ids=["untied", "tied"])
def case(request, tmp_path_factory):
    """Config, parameters, their torch twin, and the directory `transformers` writes of it."""
    config = request.param
    params = draw_params(config)
    twin = TorchTwin(config, params)
    twin.model.config.video_token_id = config.video_token_id
    directory = tmp_path_factory.mktemp("hf")
    twin.model.save_pretrained(directory)
    return config, params, twin, directory


def flat_config(config):
    """A `config.json` as the Hub's Qwen2.5-VL checkpoints have it."""
    text, vision = config.text, config.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "vision_end_token_id": config.vision_end_token_id,
        "vision_token_id": 74,
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_position_embeddings,
        "max_window_layers": 70,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta,
        "sliding_window": 32768,
        "tie_word_embeddings": text.tie_word_embeddings,
        "torch_dtype": "float32",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": vision.depth,
            "hidden_act": "silu",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "in_chans": 3,
            "out_hidden_size": vision.out_hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": list(vision.fullatt_block_indexes),
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "vocab_size": text.vocab_size,
    }


def rewrite(source, directory, *, rename=lambda name: name, config=None):
    """A copy of `source` under other tensor names or with another config."""
    tensors = load_file(source / "model.safetensors")
    directory.mkdir()
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((source / "config.json").read_text()) if config is None else config
    (directory / "config.json").write_text(json.dumps(values))
    return directory


def test_reads_what_transformers_writes(case):
    config, params, _, directory = case
    loaded_config, loaded = weights.load_model_directory(directory)
    assert loaded_config == config
    assert_same_bits(loaded, params)


def test_reads_shards(case, tmp_path):
    config, params, twin, _ = case
    twin.model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert_same_bits(weights.load_model_directory(tmp_path)[1], params)


def test_reads_nested_names(case, tmp_path):
    _, params, _, source = case

    def nest(name):
        if name.startswith("visual."):
            return "model." + name
        return name.replace("model.", "model.language_model.", 1)

    nested = rewrite(source, tmp_path / "nested", rename=nest)
    assert_same_bits(weights.load_model_directory(nested)[1], params)


def test_reads_the_hubs_flat_config(case, tmp_path):
    config, params, _, source = case
    flat = rewrite(source, tmp_path / "flat", config=flat_config(config))
    loaded_config, loaded = weights.load_model_directory(flat)
    assert loaded_config == config
    assert_same_bits(loaded, params)


def test_casts_while_reading(case):
    _, params, _, directory = case
    loaded = weights.load_model_directory(directory, dtype="bfloat16")[1]
    expected = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), params)
    assert_same_bits(loaded, expected)


@pytest.mark.parametrize("repeated", ["equal", "different"])
def test_tied_model_with_an_output_matrix(case, tmp_path, monkeypatch, repeated):
    config, params, _, source = case
    if not config.text.tie_word_embeddings:
        pytest.skip("this case is untied")
    monkeypatch.setattr(weights, "ROWS_AT_ONCE", 32)  # 80 rows: the last piece is ragged
    directory = tmp_path / "repeated"
    shutil.copytree(source, directory)
    tensors = load_file(directory / "model.safetensors")
    table = tensors["model.embed_tokens.weight"].copy()
    table[-1, -1] += np.float32(repeated == "different")
    save_file(tensors | {"lm_head.weight": table}, directory / "model.safetensors")
    if repeated == "equal":
        assert_same_bits(weights.load_model_directory(directory)[1], params)
    else:
        with pytest.raises(weights.UserError, match="lm_head.weight differs"):
            weights.load_model_directory(directory)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 50_000])
def test_export_loads_in_transformers_with_equal_logits(case, tmp_path, max_shard_bytes):
    config, params, twin, _ = case
    directory = tmp_path / "export"
    weights.save_pretrained(directory, config, params, max_shard_bytes=max_shard_bytes)
    model, info = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    assert model.config.architectures == ["Qwen2_5_VLForConditionalGeneration"]
    inputs = twin.inputs([make_prompt("two images", config), make_prompt("square", config)])
    with torch.no_grad():
        actual, expected = model.eval()(**inputs).logits, twin.model(**inputs).logits
    assert torch.equal(actual, expected)
    assert model.generation_config.eos_token_id == [config.eos_token_id, config.pad_token_id]
    assert not model.generation_config.do_sample


@pytest.mark.parametrize(
    ("config", "dtype"),
    [(SMALL, "BF16"), (TIED, "F32"), (TIED, "F16")],
    ids=["untied BF16", "tied F32", "tied F16"],
)
def test_round_trip_keeps_every_bit(tmp_path, config, dtype):
    source, out = tmp_path / "source", tmp_path / "out"
    expected = random_bits_directory(source, config, safetensors_io.DTYPES[dtype])
    loaded_config, params = weights.load_model_directory(source)
    weights.save_pretrained(out, loaded_config, params, source_dir=source, max_shard_bytes=100_000)
    actual = {}
    for file in out.glob("*.safetensors"):
        actual |= load_file(file) if dtype != "BF16" else read_bfloat16(file)
    assert_same_bits({k: actual[k] for k in expected}, expected)
    assert actual.keys() == expected.keys()


def test_export_of_one_layer_leaves_the_parameters_usable(tmp_path):
    text = dataclasses.replace(SMALL.text, num_hidden_layers=1)
    config = dataclasses.replace(SMALL, text=text)
    host = draw_params(config)
    params = jax.device_put(host)
    for name in ("first", "second"):
        weights.save_pretrained(tmp_path / name, config, params)
    assert_same_bits(params, host)
    assert_same_bits(weights.load_model_directory(tmp_path / "second")[1], host)


def read_bfloat16(file):
    from safetensors.torch import load_file as load_torch

    tensors = load_torch(file)
    bfloat16 = safetensors_io.DTYPES["BF16"]
    return {name: t.view(torch.int16).numpy().view(bfloat16) for name, t in tensors.items()}


def test_reads_each_devices_part_only_once(tmp_path, monkeypatch):
    source = tmp_path / "source"
    random_bits_directory(source, SMALL, safetensors_io.DTYPES["F32"])
    expected = weights.load_model_directory(source)[1]
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    abstract = Qwen2_5_VL(config=SMALL).abstract_params()
    places = sharding.tree_shardings(abstract, sharding.QWEN2_5_VL_RULES, mesh)
    read, original = [], safetensors_io.StoredTensor.read

    def counting(self, index=None):
        result = original(self, index)
        read.append(result.nbytes)
        return result

    monkeypatch.setattr(safetensors_io.StoredTensor, "read", counting)
    params = weights.load_model_directory(source, shardings=places)[1]
    assert_same_bits(params, expected)
    assert sum(read) == tree.count_bytes(expected)
    for path, leaf in tree.flatten(params).items():
        assert leaf.sharding == tree.flatten(places)[path], path


@pytest.mark.parametrize(
    "spec", [(None, None, "x"), ("x", None, None), (None, "x", None), (("x"), None, "y")]
)
def test_patch_kernel_can_be_split_along_any_axis(spec):
    config = SMALL
    mesh = jax.make_mesh((2, 4), ("x", "y"))
    kernel = draw_params(config)["visual"]["patch_embed"]["proj"]["kernel"]
    stored = PatchKernel().to_stored(kernel)
    spec_of = safetensors_io.TensorSpec(shape=stored.shape, dtype=stored.dtype)
    tensor = safetensors_io.StoredTensor(
        name="patches", file=pathlib.Path("none"), spec=spec_of, handle=stored
    )
    index_of = NamedSharding(mesh, PartitionSpec(*spec)).devices_indices_map(kernel.shape)
    for index in index_of.values():
        part = PatchKernel().read(tensor, index)
        np.testing.assert_array_equal(part, kernel[index])
