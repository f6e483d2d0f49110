"""Who moves where, against a list made by hand, and that nothing travels between devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxqa import sharding
from jaxqa.models.qwen2_5_vl.inputs import Cache, Prefix
from jaxqa.sampling import compaction
from jaxqa.sampling.decoding import Places

ROWS, GROUP, BLOCKS = 8, 4, 4
LAYERS, HEADS, SLOTS, WIDTH = 2, 3, 5, 2
# Blocks of two prompts: both go on, one takes both rows, the other does, nobody goes on.
ACTIVE = [[0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1], [0] * 4, [0] * 4, [1] * 4, [0] * 4, [0] * 4]
compact = jax.jit(compaction.compact, static_argnames=("num_samples", "blocks", "width"))
rows_needed = jax.jit(compaction.rows_needed, static_argnums=(1, 2))


def make_state() -> tuple[Prefix, Places, Cache]:
    """Every value says whose it is: prompt b, completion b * GROUP + g."""
    rows = np.arange(ROWS, dtype=np.float32)
    numbers = np.arange(ROWS * GROUP, dtype=np.float32).reshape(ROWS, GROUP)
    prompts = np.broadcast_to(rows[:, None, None, None], (LAYERS, ROWS, HEADS, SLOTS, WIDTH))
    cached = np.broadcast_to(
        numbers[:, None, :, None, None], (LAYERS, ROWS, HEADS, GROUP, SLOTS, WIDTH)
    )
    prefix = Prefix(
        key=jnp.asarray(prompts),
        value=jnp.asarray(-prompts),
        mask=jnp.ones((ROWS, SLOTS), bool),
        last_hidden=jnp.asarray(rows[:, None]),
        next_position=jnp.arange(ROWS, dtype=jnp.int32),
    )
    places = Places(
        keys=jax.random.split(jax.random.key(0), (ROWS, GROUP)),
        tokens=jnp.asarray(numbers, jnp.int32),
        active=jnp.asarray(np.array(ACTIVE, bool)),
        origin=None,
    )
    return prefix, places, Cache(key=(jnp.asarray(cached),), value=(jnp.asarray(-cached),))


def on_host(tree):
    """NumPy arrays, keys as their bits."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(fetch, tree)


def expected_rows(places: Places, *, blocks: int, width: int) -> list[list[int]]:
    """The completions in each new row: a block's prompts in order, `width` to a row."""
    found = []
    for block in np.asarray(places.active).reshape(blocks, -1, GROUP):
        first = len(found) * GROUP
        rows = []
        for prompt, flags in enumerate(block):
            numbers = [first + prompt * GROUP + g for g in np.flatnonzero(flags)]
            rows += [numbers[at : at + width] for at in range(0, len(numbers), width)]
        found += rows + [[]] * (len(block) - len(rows))
    return found


def test_unfinished_completions_move_together_with_all_that_is_theirs():
    prefix, places, cache = make_state()
    keys = on_host(places).keys
    for blocks in (1, BLOCKS):
        needed = rows_needed(places, GROUP, blocks)
        assert compaction.widths(GROUP) == (4, 2, 1)
        assert int(needed[1]) <= ROWS // blocks  # at 2 places in a row
        new_prefix, new_places, new_cache = compact(
            prefix, places, cache, num_samples=GROUP, blocks=blocks, width=2
        )
        new_prefix, new_places, new_cache = on_host((new_prefix, new_places, new_cache))
        rows = expected_rows(places, blocks=blocks, width=2)
        assert max(map(len, rows)) == 2
        for row, numbers in enumerate(rows):
            count = len(numbers)
            np.testing.assert_array_equal(new_places.active[row], np.arange(2) < count)
            assert new_places.origin[row, :count].tolist() == numbers
            assert (new_places.origin[row, count:] == ROWS * GROUP).all()
            assert new_places.tokens[row, :count].tolist() == numbers
            for place, number in enumerate(numbers):
                assert (new_cache.key[0][:, row, :, place] == number).all()
                assert (new_cache.value[0][:, row, :, place] == -number).all()
                assert (new_places.keys[row, place] == keys[divmod(number, GROUP)]).all()
                assert (new_prefix.key[:, row] == number // GROUP).all()
                assert new_prefix.next_position[row] == number // GROUP


def test_rows_needed_counts_the_fullest_block():
    _, places, _ = make_state()
    for blocks in (1, 2, BLOCKS):
        found = [int(count) for count in rows_needed(places, GROUP, blocks)]
        for count, width in zip(found, compaction.widths(GROUP), strict=True):
            per_prompt = -(-np.array(ACTIVE).sum(-1) // width)
            assert count == per_prompt.reshape(blocks, -1).sum(-1).max()


def test_nothing_travels_between_devices():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=BLOCKS))
    prefix, places, cache = make_state()
    first, second = (NamedSharding(mesh, P(*axes)) for axes in (("data",), (None, "data")))

    def place(leaf: jax.Array, where: NamedSharding) -> jax.Array:
        return jax.device_put(leaf, where)

    cache = jax.tree.map(functools.partial(place, where=second), cache)
    places = jax.tree.map(functools.partial(place, where=first), places)
    prefix = Prefix(
        key=place(prefix.key, second),
        value=place(prefix.value, second),
        mask=place(prefix.mask, first),
        last_hidden=place(prefix.last_hidden, first),
        next_position=place(prefix.next_position, first),
    )
    options = {"num_samples": GROUP, "blocks": BLOCKS, "width": 2}
    text = compact.lower(prefix, places, cache, **options).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    moved = compact(prefix, places, cache, **options)
    whole = compact(*make_state(), **options)
    taken = np.asarray(whole[1].active)
    np.testing.assert_array_equal(moved[1].origin, whole[1].origin)
    found, expected = (np.asarray(x[2].key[0]).transpose(1, 3, 0, 2, 4, 5) for x in (moved, whole))
    np.testing.assert_array_equal(found[taken], expected[taken])
