"""Config files, overrides and the messages that bad ones get."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from jaxqa import configuration
from jaxqa.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    flag: bool = False
    path: str | None = None
    pair: tuple[int, float] = (1, 1.0)
    inner: Inner = field(default_factory=Inner)
    table: dict[str, Inner] = field(default_factory=dict)


def build(values):
    return configuration.from_dict(Outer, values, at="config")


def test_round_trip_through_a_config_dict():
    outer = Outer(steps=3, path="x", inner=Inner(rate=2.0), table={"k": Inner(mode="b")})
    config = configuration.to_config_dict(configuration.to_dict(outer))
    assert build(config.to_dict()) == outer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 1, "stpes": 2}, r"config: unknown key 'stpes'; valid keys: steps, flag, path"),
        ({}, "config: missing key 'steps'"),
        ({"steps": "many"}, r"config.steps: got 'many' \(str\); expected int"),
        ({"steps": True}, r"config.steps: got True"),
        ({"steps": 1, "flag": 1}, r"config.flag: got 1"),
        ({"steps": 1, "inner": {"mode": "c"}}, r"config.inner.mode: got 'c'; expected .*'a', 'b'"),
        ({"steps": 1, "inner": {"rate": -1.0}}, r"config.inner: rate must not be negative"),
        ({"steps": 1, "inner": {"sizes": (1, "x")}}, r"config.inner.sizes\[1\]: got 'x'"),
        ({"steps": 1, "pair": (1,)}, r"config.pair: got 1 values; expected 2"),
        ({"steps": 1, "table": {"k": {"rat": 1.0}}}, r"config.table.k: unknown key 'rat'"),
        ({"steps": 1, "inner": 7}, r"config.inner: got 7 \(int\); expected Inner"),
    ],
)
def test_a_wrong_value_names_its_place(values, message):
    with pytest.raises(UserError, match=message):
        build(values)


def test_an_integer_serves_as_a_float_and_none_as_optional():
    built = build({"steps": 1, "inner": {"rate": 2}, "path": None})
    assert built.inner.rate == 2.0 and isinstance(built.inner.rate, float)


def overridden(key, text):
    config = configuration.to_config_dict(configuration.to_dict(Outer(steps=3)))
    configuration.apply_override(config, key, text)
    return build(config.to_dict())


def test_overrides_keep_the_type():
    assert overridden("steps", "7").steps == 7
    assert overridden("flag", "true").flag is True
    assert overridden("path", "runs/1").path == "runs/1"
    assert overridden("inner.rate", "1e-3").inner.rate == 1e-3
    assert overridden("inner.rate", "2").inner.rate == 2.0
    assert overridden("inner.sizes", "(4, 5)").inner.sizes == (4, 5)
    assert overridden("inner.sizes", "[4]").inner.sizes == (4,)
    assert overridden("inner.mode", "b").inner.mode == "b"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("stepz", "1", r"--config.stepz: config has no key 'stepz'; valid keys: flag, inner"),
        ("inner.rat", "1", r"config.inner has no key 'rat'; valid keys: mode, rate, sizes"),
        ("steps.x", "1", r"config.steps has no key 'x'; it is a single value"),
        ("steps", "1.5", r"--config.steps: got '1.5'; expected an integer, such as 3"),
        ("steps", "abc", r"--config.steps: got 'abc'; expected an integer"),
        ("flag", "maybe", r"--config.flag: got 'maybe'; expected true or false"),
        ("inner", "1", r"--config.inner: is a section; set one of mode, rate, sizes, or"),
    ],
)
def test_a_wrong_override_lists_what_is_valid(key, text, message):
    with pytest.raises(UserError, match=message):
        overridden(key, text)


def test_config_files(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(mode=None):\n"
        "    if mode == 'bad':\n"
        "        raise ValueError('no mode bad')\n"
        "    return ConfigDict({'mode': mode})\n"
    )
    assert configuration.load_config_file(f"{path}:small").mode == "small"
    assert configuration.load_config_file(str(path)).mode is None
    with pytest.raises(UserError, match="no mode bad"):
        configuration.load_config_file(f"{path}:bad")
    with pytest.raises(UserError, match="no file"):
        configuration.load_config_file(str(tmp_path / "missing.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="no get_config"):
        configuration.load_config_file(str(tmp_path / "empty.py"))
