import os

import pytest

from jaxqa import files
from jaxqa.errors import UserError


def test_json_round_trip_keeps_order_and_text(tmp_path):
    value = {"b": 1, "a": ["ä", None, 2.5]}
    files.write_json(tmp_path / "x.json", value)
    assert list(files.read_json(tmp_path / "x.json").items()) == list(value.items())
    assert (
        (tmp_path / "x.json")
        .read_text(encoding="utf-8")
        .endswith('"ä",\n    null,\n    2.5\n  ]\n}\n')
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not valid JSON"), (b"\xff", "not valid JSON"), (b"3", "found int")],
)
def test_unusable_json(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_json(tmp_path / "x.json")


def test_json_that_is_missing_a_directory_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot read .*x.json: No such file"):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="Is a directory"):
        files.read_json(tmp_path)
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 3)
    files.write_json(tmp_path / "x.json", {})
    with pytest.raises(UserError) as caught:
        files.write_json(tmp_path / "y.json", {"a": 1})
        files.read_json(tmp_path / "y.json")
    assert "too large" in str(caught.value)
    assert files.read_json(tmp_path / "x.json") == {}


@pytest.mark.parametrize("exists", [False, True])
def test_directory_appears_whole_with_ordinary_permissions(tmp_path, exists):
    target = tmp_path / "deep" / "out"
    if exists:
        target.mkdir(parents=True)
    with files.atomic_directory(target) as temporary:
        (temporary / "a").write_text("x")
        assert not (target / "a").exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    (tmp_path / "ordinary").mkdir()
    assert target.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, UserError])
def test_failure_leaves_nothing(tmp_path, failure):
    with pytest.raises(failure), files.atomic_directory(tmp_path / "out") as temporary:
        (temporary / "a").write_text("x")
        raise failure("stop")
    assert list(tmp_path.iterdir()) == []


def test_failing_disk_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot write .*out: No space left on device"):
        with files.atomic_directory(tmp_path / "out"):
            raise OSError(28, os.strerror(28))
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        with files.atomic_directory(tmp_path / "file" / "out"):
            pass


def test_taken_target_and_dangling_link_stay(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a directory"):
        with files.atomic_directory(tmp_path / "link"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
