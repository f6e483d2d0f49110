"""One device, eight of one process and eight of two processes train, sample and test alike."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import sharded_cases
from free_port import free_port

from jaxqa import sharding, tree
from jaxqa.models.qwen2_5_vl import weights

ONE = sharding.MeshConfig()
EXACT = ("completion_ids", "completion_mask", "gate", "examples", "score ids", "scores")


@pytest.fixture(scope="module")
def expected():
    return sharded_cases.compute(sharding.make_mesh(ONE))


def assert_same(found, expected):
    """To 1e-5: gradients relative to the largest of their case."""
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        if name in EXACT:
            np.testing.assert_array_equal(found[name], truth, err_msg=name)
            continue
        scale = 1.0
        if " gradient " in name:
            case = name.split(" gradient ")[0]
            scale = max(np.abs(v).max() for k, v in expected.items() if k.startswith(f"{case} gr"))
            assert scale > 0
        np.testing.assert_allclose(
            found[name], truth, rtol=1e-5, atol=1e-5 * min(scale, 1.0), err_msg=name
        )


@pytest.mark.slow
def test_what_is_compared_is_worth_comparing(expected):
    """The filter dropped groups and others took their places; scores and rewards differ."""
    assert len(expected["examples"]) == 2 * sharded_cases.ROWS * sharded_cases.GROUP
    assert 0 < expected["metric groups_filtered"] and expected["metric groups_kept"] > 1
    assert expected["metric unparsed"] > 0 and len(np.unique(expected["rewards"])) > 3
    assert 0 < expected["gate"].sum() < expected["completion_mask"].sum()
    scores = expected["scores"]
    assert np.isnan(scores).sum() == 1 and len(np.unique(scores)) > 3


@pytest.mark.slow
def test_eight_devices_do_what_one_does(expected):
    assert_same(sharded_cases.compute(sharding.make_mesh(sharded_cases.WIDE)), expected)


def run_two(folder: Path) -> None:
    """Both processes to their ends; what they print goes to files, so that none waits for us."""
    port, script = free_port(), str(Path(sharded_cases.__file__))
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    with contextlib.ExitStack() as stack:
        running = []
        for number in range(2):
            command = [sys.executable, script, str(port), str(number), str(folder)]
            output = stack.enter_context((folder / f"{number}.txt").open("wb"))
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append(process)
        statuses = [process.wait(timeout=600) for process in running]
    assert statuses == [0, 0], (folder / "0.txt").read_text()[-5000:]


@pytest.mark.slow
def test_two_processes_do_what_one_device_does(expected, tmp_path):
    one = sharding.make_mesh(ONE)
    sharded_cases.save(tmp_path / "one", one)
    run_two(tmp_path)
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    state, _ = sharded_cases.restored(tmp_path / "one", one)
    truths = {f"restored {name}": leaf for name, leaf in tree.flatten(state).items()}
    assert_same(found, expected | truths)

    state, host = sharded_cases.restored(tmp_path / "two", one)
    assert host == {"source": {"next_batch": 5}}
    saved = tree.flatten(jax.device_get(sharded_cases.state_on(one)))
    for name, leaf in tree.flatten(state).items():
        np.testing.assert_array_equal(leaf, saved[name], err_msg=name)
    _, exported = weights.load_model_directory(tmp_path / "two" / "export")
    truth = tree.flatten(jax.device_get(sharded_cases.place_params(one)))
    for name, leaf in tree.flatten(exported).items():
        np.testing.assert_array_equal(leaf, truth[name], err_msg=name)
