import dataclasses
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_set import BUCKETS, encoder, source, training, write_examples

from jaxqa import sharding
from jaxqa.data import prompts
from jaxqa.data.batching import SftBatch
from jaxqa.data.loader import Loader, LoaderConfig, evaluation_loader
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.config import PRESETS
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.objectives import warmup
from jaxqa.sharding import RowShare
from jaxqa.stages import kinds
from jaxqa.train.losses import WarmupObjective


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("images"), 22)


def arrays(batch):
    """All arrays of a batch by name."""
    prompts = vars(batch.prompts)
    own = {k: v for k, v in vars(batch).items() if isinstance(v, np.ndarray)}
    return {**prompts, **own}


def assert_equal(first, second):
    first, second = arrays(first), arrays(second)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
        assert array.dtype == second[name].dtype


def take(loader, count):
    return [next(loader) for _ in range(count)]


def evaluation(examples, **options):
    config = LoaderConfig(**({"batch_size": 4, "on_bad_image": "mask"} | options))
    return evaluation_loader([source(examples)], encoder=encoder(), buckets=BUCKETS, config=config)


def test_training_goes_through_epochs_in_new_orders(examples):
    loader = training(examples)
    assert isinstance(loader, Loader) and len(loader) > 10**9
    epochs = [np.concatenate([b.example_ids for b in take(loader, 5)]) for _ in range(3)]
    for ids in epochs:
        assert len(set(ids.tolist())) == 20  # of 22, in batches of 4
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
    assert len(set(np.concatenate(epochs).tolist())) == 22
    labels = {example.example_id: np.float32(example.score) for example in examples}
    batch = next(loader)
    assert batch.labels.tolist() == [labels[i] for i in batch.example_ids.tolist()]


def test_shapes_come_from_the_buckets_alone(examples):
    batches = take(training(examples, supervised=True), 30)
    shapes = {
        (*batch.prompts.token_ids.shape, *batch.prompts.patches.shape[:2]) for batch in batches
    }
    assert shapes <= {(4, 72, 4, 1), (4, 96, 4, 2)}
    assert all(isinstance(batch, SftBatch) for batch in batches)
    assert {batch.completion_ids.shape for batch in batches} <= {(4, 1, 16), (4, 1, 32), (4, 1, 64)}


def test_the_seed_alone_decides_the_order(examples):
    for first, second in zip(
        take(training(examples, seed=3), 6), take(training(examples, seed=3), 6), strict=True
    ):
        assert_equal(first, second)
    other = take(training(examples, seed=4), 6)
    ours = take(training(examples, seed=3), 6)
    assert any((a.example_ids != b.example_ids).any() for a, b in zip(ours, other, strict=True))


@pytest.mark.parametrize("position", [0, 1, 5, 7, 13])
def test_resumes_at_the_exact_next_batch(examples, position):
    whole = take(training(examples, supervised=True), position + 3)
    stopped = training(examples, supervised=True)
    take(stopped, position)
    state = json.loads(json.dumps(stopped.get_state()))
    resumed = training(examples, supervised=True)
    next(resumed)  # a state also moves a loader that has begun
    resumed.set_state(state)
    for expected, batch in zip(whole[position:], take(resumed, 3), strict=True):
        assert_equal(expected, batch)


def test_a_state_of_other_data_is_refused(examples):
    state = training(examples).get_state()
    for other in (
        training(examples[:-1]),
        training(examples, seed=1),
        training(examples, batch_size=2),
        training(examples, supervised=True),
    ):
        with pytest.raises(UserError, match="belongs to other data"):
            other.set_state(state)


def test_processes_share_out_the_rows_of_one_global_batch(examples):
    whole = take(training(examples, supervised=True), 7)
    shards = [
        take(training(examples, supervised=True, share=RowShare(parts=(i,), count=2)), 7)
        for i in range(2)
    ]
    for expected, *parts in zip(whole, *shards, strict=True):
        parts = [arrays(part) for part in parts]
        for name, array in arrays(expected).items():
            np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]))


def test_a_process_may_hold_parts_that_are_not_neighbours(examples):
    (whole,) = take(training(examples), 1)
    (mine,) = take(training(examples, share=RowShare(parts=(0, 2), count=4)), 1)
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(mine)[name], array[[0, 2]])


@pytest.mark.parametrize("count", [3, 8])
def test_shares_that_do_not_divide_the_batch_are_refused(examples, count):
    with pytest.raises(ValueError, match=f"batch_size 4 in {count} parts"):
        training(examples, share=RowShare(count=count))


@pytest.mark.parametrize("field", ["batch_size", "num_workers", "cache_mb"])
def test_options_out_of_range_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} is -1"):
        LoaderConfig(**{field: -1})


def test_two_examples_with_one_id_are_refused(examples):
    with pytest.raises(UserError, match="'only' have the same example_id"):
        training([*examples, examples[0]])


def test_evaluation_passes_once_over_everything(examples):
    loader = evaluation(examples)
    batches = list(loader)
    assert len(batches) == len(loader)
    seen = np.concatenate([batch.example_ids[batch.valid] for batch in batches])
    assert sorted(seen.tolist()) == [example.example_id for example in examples]
    for batch in batches:
        assert batch.prompts.token_ids.shape[0] == 4
        padding = batch.example_ids[~batch.valid]
        assert (padding == batch.example_ids[0]).all()
    by_bucket = {}
    for batch in batches:
        shape = batch.prompts.token_ids.shape
        by_bucket.setdefault(shape, []).extend(batch.example_ids[batch.valid].tolist())
    assert len(by_bucket) == 2
    assert all(ids == sorted(ids) for ids in by_bucket.values())  # ids rise with the order
    with pytest.raises(StopIteration):
        next(loader)
    loader.reset()
    assert_equal(next(loader), batches[0])


def test_an_examples_bucket_does_not_depend_on_the_others(examples):
    shape_of = {}
    for chosen in (examples, examples[3:9], examples[5:6], examples[::-1]):
        for batch in evaluation(chosen):
            for i in batch.example_ids[batch.valid].tolist():
                shape = batch.prompts.patches.shape
                assert shape_of.setdefault(i, shape) == shape


def test_no_examples_and_too_few_are_refused(examples):
    with pytest.raises(UserError, match="no examples"):
        evaluation([])
    with pytest.raises(UserError, match="3 examples and a batch has 4 rows"):
        training(examples[:3])


def test_worker_processes_give_the_same_batches_and_go_away(examples):
    options = {"supervised": True, "num_workers": 2}
    expected = take(training(examples, supervised=True), 9)
    loader = training(examples, **options)
    for batch, other in zip(expected[:4], take(loader, 4), strict=True):
        assert_equal(batch, other)
        assert all(type(array) is np.ndarray for array in arrays(other).values())
    state = loader.get_state()
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    resumed = training(examples, supervised=True, num_workers=1)
    resumed.set_state(state)
    for batch, other in zip(expected[4:], take(resumed, 5), strict=True):
        assert_equal(batch, other)
    del resumed  # without close()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_an_evaluation_keeps_nothing_in_shared_memory(examples):
    loader = evaluation(examples, num_workers=1)
    assert len(list(loader)) >= 6
    loader.close()
    kept = [o for o in gc.get_objects() if type(o).__name__ == "SharedMemoryArray"]
    assert not kept  # or the end of the interpreter would call it leaked


def test_errors_come_through_from_workers(examples, tmp_path):
    broken = write_examples(tmp_path, 4)
    path = tmp_path / "1.png"
    path.write_bytes(path.read_bytes()[:-400])
    loader = training(broken, num_workers=1)
    with pytest.raises(UserError, match=r"1\.png: cannot decode"):
        next(loader)
    assert not multiprocessing.active_children()
    loader = training(broken)
    for _ in range(2):  # and again, rather than an early end
        with pytest.raises(UserError, match=r"1\.png: cannot decode"):
            next(loader)


def two_sources(examples, weights=(3.0, 1.0)):
    quality, beauty = (
        source(examples, name, template=prompts.get_template(template), weight=weight)
        for name, template, weight in zip(
            ("quality", "beauty"), ("concise", "concise_aesthetics"), weights, strict=True
        )
    )
    return [quality, dataclasses.replace(beauty, examples=examples[:7])]


@pytest.mark.parametrize("mixing", ["rows", "batches"])
def test_several_sources_are_mixed_sharded_and_resumed(examples, mixing):
    sources, options = two_sources(examples), {"supervised": True, "mixing": mixing}
    whole = take(training(sources, **options), 24)
    tasks = np.stack([batch.task for batch in whole])
    assert tasks.mean() == pytest.approx(0.25, abs=0.03)  # aesthetics is task 1
    assert ((tasks == tasks[:, :1]).all(axis=1)).all() == (mixing == "batches")
    state = training(sources, **options)
    take(state, 9)
    for workers in (0, 2) if mixing == "rows" else (0,):
        resumed = training(sources, num_workers=workers, **options)
        resumed.set_state(json.loads(json.dumps(state.get_state())))
        for expected, batch in zip(whole[9:], take(resumed, 5), strict=False):
            assert_equal(expected, batch)
        resumed.close()
    halves = [
        take(training(sources, share=RowShare(parts=(i,), count=2), **options), 8) for i in range(2)
    ]
    for expected, *parts in zip(whole[:8], *halves, strict=True):
        parts = [arrays(part) for part in parts]
        for name, array in arrays(expected).items():
            np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]))


def test_a_state_of_another_mixture_is_refused(examples):
    state = training(two_sources(examples)).get_state()
    for other in (
        training(two_sources(examples, (1.0, 1.0))),
        training(two_sources(examples), mixing="batches"),
        training(two_sources(examples)[::-1]),
    ):
        with pytest.raises(UserError, match="belongs to other data"):
            other.set_state(state)


PARENT = """
import multiprocessing, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny_set import training, write_examples

if __name__ == "__main__":
    loader = training(write_examples(Path({directory!r}), 8), num_workers=2)
    next(loader)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(600)
"""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a container may have no init that reaps


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_die_with_a_killed_parent_but_outlive_a_signal_to_the_group(tmp_path):
    script = tmp_path / "parent.py"
    directory = tmp_path / "images"
    directory.mkdir()
    tests = str(Path(__file__).parent)
    script.write_text(PARENT.format(tests=tests, directory=str(directory)))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            workers = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(workers) == 2
            for worker in workers:
                os.kill(worker, signal.SIGINT)
                os.kill(worker, signal.SIGTERM)
            time.sleep(1.0)
            assert all(alive(worker) for worker in workers)
        finally:
            parent.kill()
    deadline = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


class Work:
    """What the device computes."""

    def __init__(self, ready):
        self.is_ready = lambda: ready


def test_only_an_idle_device_waits_for_data(examples, monkeypatch):
    loader = training(examples)
    loader.take([Work(True)])
    assert loader.waited == 0.0  # the start counts not
    real = Loader.__next__

    def slow(self):
        time.sleep(0.05)
        return real(self)

    monkeypatch.setattr(Loader, "__next__", slow)
    loader.take([Work(True), Work(False)])
    assert loader.waited == 0.0
    batch = loader.take([Work(True)])
    assert 0.05 <= loader.waited < 1.0
    loader.close()
    assert_equal(batch, take(training(examples), 3)[2])


def test_unreadable_images_are_counted_by_example_though_sources_share_ids(tmp_path):
    """The same ids twice: one data set that two sources ask about, or copies of it."""
    (tmp_path / "copy").mkdir()
    first = write_examples(tmp_path, 8)
    second = write_examples(tmp_path / "copy", 8)
    for broken in (first[2], first[5], second[2]):
        broken.image.write_bytes(broken.image.read_bytes()[:-100])  # the header is whole
    loader = training(
        [source(first, "one"), source(second, "two")], on_bad_image="mask_late", batch_size=4
    )
    for _ in range(4):
        next(loader)
    assert sorted(loader.unreadable) == [2, 5, 8 + 2]
    for row, reason in loader.unreadable.items():
        assert reason.startswith(str((*first, *second)[row].image))
    loader.close()


def test_a_warm_up_does_not_learn_from_what_stands_in_for_a_cut_image(tmp_path, monkeypatch):
    """Its loss is that of the readable rows alone, whatever is predicted for the others."""
    examples = write_examples(tmp_path, 4, sizes=[(56, 56)])
    cut = examples[1].image
    cut.write_bytes(cut.read_bytes()[:-100])
    host = next(training(examples, on_bad_image="mask_late"))
    assert host.valid.sum() == 3
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=1, tensor=1))
    batch = kinds.warmup_batch(host, mesh, merge_unit=4)
    assert float(batch.num_tokens) == 3 * 4  # 56 x 56 pixels are 4 merged tokens
    shape = (4, host.prompts.patches.shape[1] * 16, 8)
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    head = {"kernel": jnp.ones((8, warmup.NUM_TARGETS)), "bias": jnp.zeros(1)}

    def no_statistics(patches):
        return jnp.zeros((*patches.shape[:-2], patches.shape[-2] // 4, warmup.NUM_TARGETS))

    monkeypatch.setattr(warmup, "local_statistics", no_statistics)
    objective = WarmupObjective(model=Qwen2_5_VL(config=PRESETS["tiny"]))

    @jax.jit
    def loss(batch, features):
        monkeypatch.setattr(Qwen2_5_VL, "image_features", lambda self, params, prompts: features)
        return objective({"policy": {}, "head": head}, batch)[0]

    predicted = features.sum(-1, keepdims=True)
    targets = np.clip(-warmup._MEAN / warmup._DEVIATION, -4, 4)
    counted = np.asarray(host.prompts.patch_mask)[..., ::4].reshape(4, -1) & host.valid[:, None]
    expected = ((predicted - targets) ** 2).mean(-1)[counted].sum() / 12
    assert float(loss(batch, features)) == pytest.approx(expected, rel=1e-5)
    for row, valid in enumerate(host.valid):
        changed = features.copy()
        changed[row] += 1
        assert (float(loss(batch, changed)) == float(loss(batch, features))) == (not valid)
