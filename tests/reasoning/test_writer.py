"""The file of rationales: resumed, cut, limited, counted; whatever the endpoint does."""

import functools
import io
import json
import threading
from collections import Counter

import pytest
from chat_server import Answer, item, pictures_of, png, serving, write_all
from PIL import Image

from jaxqa.data.records import stable_id
from jaxqa.errors import UserError
from jaxqa.reasoning.audit import write_audit
from jaxqa.reasoning.own import OwnWords, ReasoningText
from jaxqa.reasoning.rationale_file import read_rationales, with_rationales
from jaxqa.sampling.config import SamplingConfig

FINE = "<think> All is sharp and clean here. </think><answer> {} </answer>"


def number_of(body) -> int:
    """Which of the items is asked about, by its picture."""
    (picture,) = pictures_of(body)
    for number in range(100):
        if picture.tobytes() == _decoded(number):
            return number
    raise AssertionError("an unknown picture")


@functools.cache
def _decoded(number: int) -> bytes:
    return Image.open(io.BytesIO(png(number))).tobytes()


def test_everything_that_can_go_wrong_at_once(tmp_path):
    gate = threading.Event()
    wrong = {
        1: Answer(status=500, raw=b"oh no"),
        2: Answer(raw=b"{rubbish"),
        3: Answer(status=429, headers={"Retry-After": "3600"}, raw=b""),
        4: Answer(text="I would say it is quite sharp."),
        5: Answer(text="<think> half a th", finish="length"),
        6: Answer(text="<think>one</think><think>two</think><answer>3</answer>"),
        7: Answer(until=gate),
        8: Answer(status=400, raw=b'{"error": {"message": "no such picture"}}'),
        9: Answer(text="<think> " + "long " * 500 + "</think><answer> 3 </answer>"),
    }
    replies = lambda body: wrong.get(number_of(body), Answer(text=FINE))  # noqa: E731
    items = [item(number) for number in range(12)]
    path = tmp_path / "own.jsonl"
    with serving(replies) as server:
        lines, audit = write_all(path, items, OwnWords(), server, timeout_seconds=2.0)
        gate.set()
        reasons = {number: line["reason"] for number, line in enumerate(lines)}
        assert reasons == {
            **dict.fromkeys((0, 10, 11)),
            **dict.fromkeys((1, 2, 3, 7), "expert_failed"),
            **dict.fromkeys((4, 6), "no_think_block"),
            **{5: "cut_off", 8: "refused", 9: "too_long"},
        }
        assert [line["example_id"] for line in lines] == [i.example.example_id for i in items]
        assert "no such picture" in lines[8]["detail"] and "2 s" in lines[7]["detail"]
        counts = audit["images"]
        assert counts["asked"] == 12 and counts["not_asked"] == 0 and counts["kept"] == 3
        assert sum(counts.values()) - counts["asked"] == 12
        assert sum(audit["texts"].values()) == 2 * audit["texts"]["asked"] == 24
        # Once more, with an endpoint that is well: only what nobody answered is asked again.
        sent, wrong_before = len(server.bodies), dict(wrong)
        wrong.clear()
        lines, audit = write_all(path, items, OwnWords(), server)
        asked = {number_of(body) for body in server.bodies[sent:]}
        assert asked == {1, 2, 3, 7} and len(server.bodies) == sent + 4
        assert audit["images"]["kept"] == 7 and "expert_failed" not in audit["images"]
        assert len(lines) == 12 and len(wrong_before) == 9
    write_audit(path, audit)
    assert json.loads((tmp_path / "own_audit.json").read_text()) == audit
    table = (tmp_path / "own_audit.md").read_text()
    assert "| kept | 7 | 7 | 7 |" in table and "| no_think_block | 2 | 2 | 2 |" in table


def test_a_stopped_pipeline_asks_nothing_twice(tmp_path):
    class Stop(Exception):
        pass

    items = [item(number) for number in range(20)]
    calls = Counter()

    def check():
        calls["checks"] += 1
        if len(server.bodies) >= limit:
            raise Stop

    path = tmp_path / "own.jsonl"
    with serving(lambda body: Answer(text=FINE)) as server:
        limit = 8
        with pytest.raises(Stop):
            write_all(path, items, OwnWords(), server, size=4, check=check)
        written = path.read_bytes()
        whole = written.count(b"\n")
        assert whole in (4, 8)
        path.write_bytes(written[:-9])  # as a kill during an append leaves it
        limit = 1000
        lines, audit = write_all(path, items, OwnWords(), server, size=4, check=check)
        assert len(server.bodies) == 20
    assert [line["example_id"] for line in lines] == [i.example.example_id for i in items]
    assert audit["images"]["kept"] == 20 and audit["calls"]["expert"]["from_cache"] >= 1


def test_several_samples_and_what_fine_tuning_gets(tmp_path):
    texts = iter(["sharp", "sharp", "blurred", None, "noisy"])
    lock = threading.Lock()

    def reply(body):
        with lock:
            text = next(texts)
        if text is None:
            return Answer(text="<think> no answer follows </think>")
        return Answer(text=f"<think> {text} throughout the whole frame </think><answer>2</answer>")

    path = tmp_path / "texts.jsonl"
    sampling = SamplingConfig(num_samples=5, max_new_tokens=64)
    one = item(0, score=None)
    with serving(reply) as server:
        lines, audit = write_all(path, [one], ReasoningText(), server, sampling=sampling)
    (line,) = lines
    assert sorted(text.split()[0] for text in line["rationales"]) == ["blurred", "noisy", "sharp"]
    assert line["dropped"] == {"repeated": 1, "no_score": 1} and line["score"] is None
    assert line["notes"]["texts"] == [{"score": 2.0}] * 3
    assert audit["texts"] == {"asked": 5, "kept": 3, "no_score": 1, "repeated": 1}
    texts_by_id = read_rationales(path)
    examples = with_rationales([one.example, item(1).example], texts_by_id)
    assert [e.rationale for e in examples] == line["rationales"]
    ids = [example.example_id for example in examples]
    assert ids[0] == one.example.example_id and len(set(ids)) == 3
    assert ids[1] == stable_id("some", f"{ids[0]}#1")


def test_reasoning_text_too_short_to_say_anything(tmp_path):
    answer = Answer(text="<think> fine </think><answer>2</answer>")
    with serving(lambda body: answer) as server:
        with pytest.raises(UserError, match=r"none of 1 images was kept \(too_short 1\)"):
            write_all(tmp_path / "a.jsonl", [item(0)], ReasoningText(), server)


def test_an_unreadable_picture_is_one_dropped_image(tmp_path):
    bad = item(0, image=b"no image")
    with serving(lambda body: Answer(text=FINE)) as server:
        lines, _ = write_all(tmp_path / "a.jsonl", [bad, item(1)], OwnWords(), server)
        assert len(server.bodies) == 1
    assert [line["reason"] for line in lines] == ["unreadable_image", None]
    assert "no image found" in lines[0]["detail"]


@pytest.mark.parametrize(
    "line",
    [
        '{"example_id": "5", "rationales": ["a"]}',
        '{"example_id": 5, "rationales": []}',
        '{"example_id": 5, "rationales": "a"}',
        '{"example_id": 5, "rationales": [" "]}',
        '{"rationales": ["a"]}',
    ],
)
def test_files_of_other_people(tmp_path, line):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"example_id": 4, "rationales": ["b"]}\n{"example_id": 5, "kept": false}\n')
    assert read_rationales(path) == {4: ("b",)}
    path.write_text(f'{{"example_id": 4, "rationales": ["b"]}}\n{line}\n')
    with pytest.raises(UserError, match="line 2: expected example_id"):
        read_rationales(path)
    path.write_text('{"example_id": 5, "kept": false}\n')
    with pytest.raises(UserError, match="keeps no rationale"):
        read_rationales(path)


def test_a_cut_line_is_named_and_a_missing_last_newline_costs_nothing(tmp_path):
    path, lines = (
        tmp_path / "texts.jsonl",
        [f'{{"example_id": {i}, "rationales": ["b"]}}' for i in (4, 5)],
    )
    path.write_text("\n".join(lines))
    assert read_rationales(path) == {4: ("b",), 5: ("b",)}
    for cut in (
        "\n".join((lines[0], lines[1][:20])),
        "\n".join((lines[0], lines[1][:20], lines[0])),
    ):
        path.write_text(cut)
        with pytest.raises(UserError, match="line 2: expected a JSON object.*cut"):
            read_rationales(path)
