"""Groups that stay move to the front, on any mesh, and nothing else changes."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxqa import sharding
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.train.groups import Groups, refill, to_front
from jaxqa.train.micro_batches import micro_batch_rows

MESHES = [sharding.MeshConfig(), sharding.MeshConfig(data=2, fsdp=2, tensor=2)]


def make(seed: int, *, rows: int = 8, tokens: int = 3, windows: int = 2, length: int = 5) -> Groups:
    """Groups of random numbers, all of them real."""
    rng = np.random.default_rng(seed)

    def whole(*shape: int) -> np.ndarray:
        return rng.integers(1, 200, (rows, *shape)).astype(np.int32)

    prompts = Prompts(
        token_ids=whole(tokens),
        mask=np.ones((rows, tokens), bool),
        positions=whole(3, tokens),
        next_position=whole(),
        patches=whole(windows, 4, 6).astype(np.uint8),
        patch_mask=np.ones((rows, windows, 4), bool),
        patch_positions=whole(windows, 4, 2),
        window_image=np.zeros((rows, windows), np.int32),
        vision_index=whole(tokens),
    )
    return Groups(
        prompts=prompts,
        completion_ids=whole(2, length),
        completion_mask=rng.uniform(size=(rows, 2, length)) < 0.8,
        log_probs=rng.normal(size=(rows, 2, length)).astype(np.float32),
        entropies=rng.normal(size=(rows, 2, length)).astype(np.float32),
        advantages=rng.normal(size=(rows, 2)).astype(np.float32),
    )


def assert_same(found: Groups, expected: Groups) -> None:
    pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, left), right in pairs:
        np.testing.assert_array_equal(left, right, err_msg=jax.tree_util.keystr(path))
        assert left.dtype == right.dtype


@pytest.mark.parametrize("config", MESHES, ids=["one device", "2 x 2 x 2"])
@pytest.mark.parametrize(("micro_batches", "share"), [(1, 0.5), (2, 0.3), (4, 0.7), (8, 0.0)])
def test_kept_groups_fill_the_first_micro_batches(config, micro_batches: int, share: float):
    host, mesh = make(micro_batches), sharding.make_mesh(config)
    kept = np.random.default_rng(3).uniform(size=8) < share
    groups = sharding.shard_rows(host, mesh)
    found = to_front(groups, kept, micro_batches=micro_batches, mesh=mesh)
    order = [*np.flatnonzero(kept), *np.flatnonzero(~kept)]
    inside = micro_batch_rows(8, micro_batches)
    moved = jax.tree.map(lambda leaf: np.asarray(leaf)[inside], found)
    expected = jax.tree.map(lambda leaf: leaf[order], host)
    mask = expected.completion_mask & kept[order][:, None, None]
    assert_same(moved, dataclasses.replace(expected, completion_mask=mask))
    for leaf, before in zip(jax.tree.leaves(found), jax.tree.leaves(groups), strict=True):
        assert leaf.sharding.is_equivalent_to(before.sharding, leaf.ndim)


def pad(groups: Groups, tokens: int, windows: int, length: int) -> Groups:
    """By hand, field by field."""
    fields = {}
    for name, value in vars(groups.prompts).items():
        if name == "next_position":
            fields[name] = value
            continue
        by_window = name.startswith(("patch", "window"))
        axis = 2 if name == "positions" else 1
        missing = (windows if by_window else tokens) - value.shape[axis]
        widths = [(0, missing if i == axis else 0) for i in range(value.ndim)]
        fill = -1 if name in ("vision_index", "window_image") else 0
        fields[name] = np.pad(value, widths, constant_values=fill)
    completions = {
        name: value
        if name == "advantages"
        else np.pad(value, [(0, 0), (0, 0), (0, length - value.shape[2])])
        for name, value in vars(groups).items()
        if name != "prompts"
    }
    return Groups(prompts=Prompts(**fields), **completions)


@pytest.mark.parametrize("config", MESHES, ids=["one device", "2 x 2 x 2"])
def test_places_are_refilled_from_another_bucket(config):
    mesh = sharding.make_mesh(config)
    first, more = make(0), make(1, tokens=5, windows=1, length=4)
    kept = np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    more_kept = np.array([0, 1, 1, 0, 0, 0, 1, 0], bool)
    placed = sharding.shard_rows((first, more), mesh)
    found, flags = refill(placed[0], kept, placed[1], more_kept, mesh=mesh)
    both = [pad(groups, 5, 2, 5) for groups in (first, more)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *both)
    expected = jax.tree.map(lambda leaf: leaf[[0, 3, 5, 9, 10, 14, 1, 2]], joined)
    assert_same(found, expected)
    np.testing.assert_array_equal(flags, [1, 1, 1, 1, 1, 1, 0, 0])


def test_surplus_groups_are_left_out():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    first, more = make(0), make(1)
    kept = np.array([1, 1, 1, 1, 1, 0, 1, 1], bool)
    placed = sharding.shard_rows((first, more), mesh)
    found, flags = refill(placed[0], kept, placed[1], np.ones(8, bool), mesh=mesh)
    rows = np.concatenate([first.completion_ids[kept], more.completion_ids[:1]])
    np.testing.assert_array_equal(found.completion_ids, rows)
    assert flags.all()
