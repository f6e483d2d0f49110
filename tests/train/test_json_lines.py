import json
import math
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from jaxqa.errors import UserError
from jaxqa.train import json_lines


def test_appends_read_back_and_survive_reopening(tmp_path):
    path = tmp_path / "deep" / "lines.jsonl"
    with json_lines.JsonLines(path) as file:
        file.append([{"a": 1}, {"a": 2}])
    with json_lines.JsonLines(path) as file:
        file.append([{"a": 3}])
    assert [line["a"] for line in json_lines.read_json_lines(path)] == [1, 2, 3]


def test_values_become_strict_json():
    record = {
        "nan": math.nan,
        "infinite": np.float32(np.inf),
        "numpy": np.float32(0.5),
        "jax": jnp.int32(3),
        "flag": np.bool_(True),
        "nested": {"list": (1.5, None, -math.inf)},
    }
    line = json_lines.encode_line(record)
    assert json.loads(line, parse_constant=pytest.fail) == {
        "nan": None,
        "infinite": None,
        "numpy": 0.5,
        "jax": 3,
        "flag": True,
        "nested": {"list": [1.5, None, None]},
    }


@pytest.mark.parametrize("text", ["", "\n\r\x00\u2028", "𝄞 画像 \ud800 <b>", '"}\n{"'])
def test_any_string_is_one_line_and_returns_unchanged(text):
    line = json_lines.encode_line({"text": text})
    assert line.count(b"\n") == 1
    assert json_lines.decode_line(line) == {"text": text}


def test_arrays_are_refused_by_name():
    with pytest.raises(TypeError, match="cannot write array"):
        json_lines.encode_line({"scores": np.zeros(3)})


@pytest.mark.parametrize("cut", range(1, 14))
def test_half_line_is_removed_wherever_the_kill_fell(tmp_path, cut):
    path = tmp_path / "lines.jsonl"
    whole = b'{"step": 1}\n{"step": 22}\n'
    path.write_bytes(whole[:-cut])
    kept = [1] if cut < 14 else []
    assert [line["step"] for line in json_lines.read_json_lines(path)] == kept
    with json_lines.JsonLines(path) as file:
        file.append([{"step": 3}])
    assert [line["step"] for line in json_lines.read_json_lines(path)] == [*kept, 3]
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_half_line_longer_than_one_block_is_removed(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"x" * 200_000)
    json_lines.JsonLines(path).close()
    assert path.read_bytes() == b'{"step": 1}\n'
    path.write_bytes(b"x" * 200_000)
    json_lines.JsonLines(path).close()
    assert path.read_bytes() == b""


def test_damaged_lines_are_skipped_and_dropped_at_the_next_cut(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\0\n[1]\n{"step": 2}\n')
    assert [line["step"] for line in json_lines.read_json_lines(path)] == [1, 2]
    assert json_lines.keep_json_lines(path, lambda line: True) == 2
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_keeping_everything_does_not_touch_the_file(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step":1}\n')  # not our own spelling: a rewrite would show
    before = path.stat().st_ino
    assert json_lines.keep_json_lines(path, lambda line: True) == 0
    assert path.stat().st_ino == before
    assert json_lines.keep_json_lines(tmp_path / "missing", lambda line: False) == 0


def test_full_disk_leaves_whole_lines_and_one_clear_error(tmp_path):
    path = tmp_path / "lines.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with json_lines.JsonLines(path) as file:
        file.append([{"step": 1}])
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        try:
            with pytest.raises(UserError, match=r"cannot write .*lines\.jsonl: File too large"):
                file.append([{"step": 2, "text": "x" * 30}])
            with pytest.raises(UserError, match="free space"):
                json_lines.write_json_lines(path, [{"text": "x" * 30}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b'{"step": 1}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["lines.jsonl"]


def test_a_file_in_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(UserError, match="give a work directory that is writable"):
        json_lines.JsonLines(tmp_path / "run" / "metrics.jsonl")


def test_replacement_is_all_or_nothing(tmp_path):
    path = tmp_path / "lines.jsonl"
    json_lines.write_json_lines(path, [{"a": 1}])

    def records():
        yield {"a": 2}
        raise KeyError("stopped half-way")

    with pytest.raises(KeyError):
        json_lines.write_json_lines(path, records())
    assert list(json_lines.read_json_lines(path)) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["lines.jsonl"]
