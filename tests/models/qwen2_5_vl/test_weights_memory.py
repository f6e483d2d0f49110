"""Host memory while loading and exporting, measured in a process of its own."""

import json
import subprocess
import sys

import pytest

# Counts anonymous memory (not the mapped file) beyond what finished parameters hold, each time a
# tensor has just been read or a shard is about to be written: then everything is in memory.
PROGRAM = """
import dataclasses, json, shutil, sys
import jax, numpy as np
from jaxqa import sharding, tree
from jaxqa.models import safetensors_io, weight_table
from jaxqa.models.qwen2_5_vl import config as configs, weights
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

base = configs.PRESETS["tiny"]
text = dataclasses.replace(
    base.text, hidden_size=512, intermediate_size=2048, num_hidden_layers=8,
    num_attention_heads=16, num_key_value_heads=8,
)
vision = dataclasses.replace(base.vision, out_hidden_size=512)
config = dataclasses.replace(base, text=text, vision=vision)
abstract = Qwen2_5_VL(config=config).abstract_params()
ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), abstract)
directory, mode = sys.argv[1:]
if mode == "make":
    weights.save_pretrained(directory, config, ones, max_shard_bytes=30 * 2**20)
    sys.exit()
del ones
if mode == "sharded":
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=4, tensor=2))
    places = sharding.tree_shardings(abstract, sharding.QWEN2_5_VL_RULES, mesh)
else:
    places = None
jax.block_until_ready(jax.numpy.ones((8, 8)) @ jax.numpy.ones((8, 8)))
read, write = safetensors_io.StoredTensor.read, safetensors_io.save_file
read_parameter = weight_table._read_parameter
peak = finished = 0

def watched_parameter(*arguments, **options):
    global finished
    array = read_parameter(*arguments, **options)
    finished += array.nbytes
    return array

def watched_read(self, index=None):
    global peak
    result = read(self, index)
    peak = max(peak, anonymous() - finished)
    return result

def watched_write(tensors, *arguments, **options):
    global peak
    peak = max(peak, anonymous() - finished)
    write(tensors, *arguments, **options)

safetensors_io.StoredTensor.read, safetensors_io.save_file = watched_read, watched_write
weight_table._read_parameter = watched_parameter
start = anonymous()
params = weights.load_model_directory(directory, shardings=places)[1]
loading = peak - start
for attempt in ("first", "second"):  # the first compiles; its programs are no tensors
    start, peak = anonymous() - finished, 0
    weights.save_pretrained(directory + attempt, config, params, max_shard_bytes=30 * 2**20)
    shutil.rmtree(directory + attempt)
leaves = tree.flatten(params).values()
print(json.dumps({
    "loading": loading, "export": peak - start, "total": sum(leaf.nbytes for leaf in leaves),
    "largest": max(leaf.nbytes for leaf in leaves),
}))
"""
MIB = 2**20
SLACK = 6 * MIB  # headers, compiled programs, allocator


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "model"
    measure(path, "make")
    return path


def measure(directory, mode) -> str:
    # Freed blocks go back to the system at once, so that resident memory is memory in use.
    environment = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", PROGRAM, str(directory), mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["single", "sharded"])
def test_loading_holds_one_parameter_and_export_one_shard(directory, tmp_path, mode):
    copy = tmp_path / "model"
    copy.symlink_to(directory)
    used = json.loads(measure(copy, mode))
    tensor = used["largest"] // 8  # one of eight layers
    assert used["total"] > 3 * used["largest"]  # reading the whole file would be noticed
    assert 0 < used["loading"] <= used["largest"] + tensor + SLACK, used
    assert 0 < used["export"] <= 30 * MIB + tensor + SLACK, used
