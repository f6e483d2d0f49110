import numpy as np
import pytest

from jaxqa.models import safetensors_io
from jaxqa.models.safetensors_io import TensorSpec

FLOAT = np.dtype(np.float32)


def specs(**elements):
    return {name: TensorSpec(shape=(n,), dtype=FLOAT) for name, n in elements.items()}


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1}, 12, [["a", "b", "c"]]),
        ({"a": 1, "b": 1, "c": 1}, 11, [["a", "b"], ["c"]]),
        ({"a": 1, "b": 9, "c": 1}, 8, [["a"], ["b"], ["c"]]),
        ({"a": 9, "b": 0, "c": 2}, 8, [["a"], ["b", "c"]]),
    ],
)
def test_shards_are_filled_in_order(sizes, limit, expected):
    assert safetensors_io.plan_shards(specs(**sizes), max_shard_bytes=limit) == expected


def test_shard_size_must_be_positive():
    with pytest.raises(ValueError, match="max_shard_bytes must be positive, got 0"):
        safetensors_io.plan_shards(specs(a=1), max_shard_bytes=0)


@pytest.mark.parametrize("limit", [10**6, 100])
@pytest.mark.parametrize("dtype", safetensors_io.DTYPES.values(), ids=str)
def test_written_tensors_are_read_part_by_part(tmp_path, limit, dtype):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((4, 6)).astype(dtype) for name in "abc"}
    layout = {name: TensorSpec(shape=(4, 6), dtype=dtype) for name in arrays}
    safetensors_io.write_directory(tmp_path, layout, arrays.__getitem__, max_shard_bytes=limit)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (limit == 100)
    tensors = safetensors_io.open_directory(tmp_path)
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].spec == layout[name]
        for index in [
            (slice(None), slice(None)),
            (slice(1, 3), slice(2, 5)),
            (slice(0, 1), slice(5, 6)),
        ]:
            part = tensors[name].read(index)
            assert part.dtype == dtype and np.array_equal(part, array[index])
