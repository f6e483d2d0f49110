"""The share of a GPU that training takes, and the scheduler that it asks for."""

import importlib.util
import os
import subprocess
import sys

from jaxlib import xla_client

from jaxqa.cli import gpu_environment, train

FORMER = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def test_the_users_share_is_kept():
    for said in ({"XLA_CLIENT_MEM_FRACTION": "0.5"}, {FORMER: "0.5"}):
        environment = dict(said)
        gpu_environment.prepare(environment)
        assert environment == said


def test_training_takes_a_share_that_jax_understands(monkeypatch, tmp_path, capsys):
    names = ("XLA_CLIENT_MEM_FRACTION", FORMER)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    monkeypatch.setattr(os, "environ", environment)
    assert train.main([f"--config={tmp_path / 'none.py'}", f"--workdir={tmp_path}"]) == 2
    assert "none.py" in capsys.readouterr().err  # so far and no further
    monkeypatch.setattr(os, "getenv", environment.get)
    assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.95


def test_transfers_overlap_where_there_may_be_a_gpu(monkeypatch):
    def flags(said, plugin):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
        environment = {} if said is None else {"XLA_FLAGS": said}
        gpu_environment.prepare(environment)
        return environment.get("XLA_FLAGS")

    overlap = "--xla_gpu_enable_latency_hiding_scheduler"
    assert flags(None, "none") is None and flags("--a=1", "none") == "--a=1"
    assert flags(None, "jax_cuda12_plugin") == f"{overlap}=true"
    assert flags("--a=1", "jax_cuda13_plugin") == f"--a=1 {overlap}=true"
    assert flags(f"{overlap}=false", "jax_cuda12_plugin") == f"{overlap}=false"


def test_this_xla_knows_the_flag():
    """An unknown one would end the process."""
    environment = os.environ | {"XLA_FLAGS": f"{gpu_environment._OVERLAP}=true"}
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(1)"]
    subprocess.run(command, env=environment, check=True)
