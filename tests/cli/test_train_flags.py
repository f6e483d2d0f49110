"""Flags of several processes, of the compilation cache and of the profiler; nothing is trained."""

import argparse

import pytest

from jaxqa.cli import compiled, distributed, train
from jaxqa.errors import UserError


def read(*arguments, **environment):
    parser = argparse.ArgumentParser()
    distributed.add_flags(parser)
    return distributed.read_flags(parser.parse_args(arguments), environment)


def test_who_the_others_are():
    assert not read().is_on
    assert read("--distributed=auto").detect
    said = read("--coordinator=a:1", "--num_processes=4", "--process_id=3")
    assert (said.coordinator, said.num_processes, said.process_id) == ("a:1", 4, 3)
    assert said.is_on and not said.detect
    assert read("--heartbeat_timeout=7").heartbeat_timeout == 7


def test_the_environment_speaks_where_no_flag_does():
    variables = {"JAXQA_COORDINATOR": "a:1", "JAXQA_NUM_PROCESSES": "4", "JAXQA_PROCESS_ID": "3"}
    assert read(**variables).process_id == 3
    assert read("--process_id=2", **variables).process_id == 2
    assert not read("--distributed=off", **variables).is_on
    assert read(JAXQA_DISTRIBUTED="auto").detect


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--coordinator=a:1",), "without --num_processes, --process_id"),
        (("--coordinator=a", "--num_processes=1", "--process_id=0"), "expected HOST:PORT"),
        (("--coordinator=a:1", "--num_processes=2", "--process_id=2"), "expected 0 to 1"),
        (("--coordinator=a:1", "--num_processes=x", "--process_id=2"), "--num_processes=x"),
        (("--heartbeat_timeout=0",), "whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        read(*arguments)


def test_where_compiled_programs_are_kept(tmp_path):
    assert str(compiled.cache_folder(None, {"XDG_CACHE_HOME": "/c"})) == "/c/jaxqa/compiled"
    assert str(compiled.cache_folder("/d", {"JAX_COMPILATION_CACHE_DIR": "/c"})) == "/d"
    assert compiled.cache_folder("off", {}) is None
    assert compiled.cache_folder(None, {"JAX_COMPILATION_CACHE_DIR": "/c"}) is None


@pytest.mark.parametrize("flag", ["3", "0:2", "5:3", "a:b"])
def test_profiled_steps(flag, capsys):
    arguments = ["--config=x.py", "--workdir=y", f"--profile={flag}"]
    assert train.main(arguments) == 2
    assert "expected FIRST:LAST" in capsys.readouterr().err
