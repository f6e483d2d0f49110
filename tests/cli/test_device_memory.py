"""The share of a GPU that training takes."""

import os

from jaxlib import xla_client

from jaxqa.cli import device_memory, train

FORMER = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def test_the_users_share_is_kept():
    for said in ({"XLA_CLIENT_MEM_FRACTION": "0.5"}, {FORMER: "0.5"}):
        environment = dict(said)
        device_memory.claim(environment)
        assert environment == said


def test_training_takes_a_share_that_jax_understands(monkeypatch, tmp_path, capsys):
    names = ("XLA_CLIENT_MEM_FRACTION", FORMER)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    monkeypatch.setattr(os, "environ", environment)
    assert train.main([f"--config={tmp_path / 'none.py'}", f"--workdir={tmp_path}"]) == 2
    assert "none.py" in capsys.readouterr().err  # so far and no further
    monkeypatch.setattr(os, "getenv", environment.get)
    assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.95
