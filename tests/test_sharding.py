"""Placement of parameters: every leaf has a rule, and the rules divide the right axes."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxqa import sharding, tree
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_leaf_of_every_preset_matches_a_rule(preset):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    abstract = Qwen2_5_VL(config=PRESETS[preset]).abstract_params()
    places = tree.flatten(sharding.tree_shardings(abstract, sharding.QWEN2_5_VL_RULES, mesh))
    assert places.keys() == tree.flatten(abstract).keys()
    for path, leaf in tree.flatten(abstract).items():
        places[path].shard_shape(leaf.shape)  # raises where an axis does not divide
        if leaf.ndim > 1 and path.endswith(("kernel", "embedding", "lm_head/weight")):
            shard = np.prod(places[path].shard_shape(leaf.shape))
            assert shard * 2 <= np.prod(leaf.shape), f"{path} is whole on every device"


def test_the_table_of_the_text_tower():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=4))
    specs = {
        path: sharding.partition_spec(path, shape, sharding.QWEN2_5_VL_RULES, mesh)
        for path, shape in {
            "model/layers/self_attn/q_proj/kernel": (28, 3584, 3584),
            "model/layers/mlp/down_proj/kernel": (28, 18944, 3584),
            "model/embed_tokens/embedding": (152064, 3584),
            "visual/blocks/mlp/gate_proj/kernel": (32, 1280, 3422),  # 3422 % 4 != 0
        }.items()
    }
    assert list(specs.values()) == [
        P(None, "fsdp", "tensor"),
        P(None, "tensor", "fsdp"),
        P("tensor", "fsdp"),
        P(None, "fsdp", None),
    ]


@pytest.mark.parametrize(("tensor", "split"), [(4, "tensor"), (8, None)])
def test_3420_columns_are_split_by_four_and_not_by_eight(tensor, split):
    mesh = sharding.make_mesh(sharding.MeshConfig(tensor=tensor))
    path, shape = "visual/blocks/mlp/gate_proj/kernel", (32, 1280, 3420)
    spec = sharding.partition_spec(path, shape, sharding.QWEN2_5_VL_RULES, mesh)
    assert spec == P(None, "fsdp", split)


@pytest.mark.parametrize(
    ("path", "rules"),
    [
        ("new/kernel", sharding.QWEN2_5_VL_RULES),
        ("vision_model/encoder/layers/new/kernel", sharding.CLIP_RULES),
    ],
)
def test_a_leaf_without_a_rule_is_an_error(path, rules):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    with pytest.raises(UserError, match=f"no rule matches parameter '{path}'"):
        sharding.partition_spec(path, (2, 2), rules, mesh)


def test_mesh_sizes():
    assert sharding.make_mesh(sharding.MeshConfig(data=-1, tensor=2)).shape["data"] == 4
    with pytest.raises(UserError, match="devices wanted, 8 found"):
        sharding.make_mesh(sharding.MeshConfig(data=3, fsdp=3))
    with pytest.raises(ValueError, match="positive"):
        sharding.MeshConfig(data=0)


def test_rows_are_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    rows = np.arange(24).reshape(8, 3)
    placed, scalar = sharding.shard_rows((rows, np.float32(2.0)), mesh)
    assert np.array_equal(jax.device_get(placed), rows) and float(scalar) == 2.0
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    with pytest.raises(ValueError, match="do not divide"):
        sharding.shard_rows(np.zeros((6, 1)), mesh)
