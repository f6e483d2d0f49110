"""The endpoint client against a real server on loopback."""

import email.utils
import io
import re
import threading
import time

import pytest
from chat_server import Answer, Naps, expert, nothing, pictures_of, png, prompt_of, request, serving
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.reasoning import connection
from jaxqa.reasoning.cache import ReplyCache
from jaxqa.reasoning.chat import retry_after
from jaxqa.reasoning.expert import ExpertConfig, Request
from jaxqa.sampling.config import SamplingConfig


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    """A proxy that is not there: a local server is talked to without."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def scripted(*answers: Answer):
    """Replies with each answer in turn, the last one for ever."""
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def only(replies):
    ((sample,),) = replies
    return sample


def test_what_is_sent_and_what_comes_back(tmp_path):
    image = {"type": "image"}
    messages = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "before"}, image, image]},
    )
    sampling = SamplingConfig(temperature=0.3, top_p=0.8, max_new_tokens=140)
    with serving(lambda body: Answer(text="A fine picture.")) as server:
        options = {"extra": {"seed": 5, "max_tokens": None}, "api_key": "secret"}
        with expert(server.url + "/", tmp_path / "answers", **options) as made:
            one = Request(messages=messages, images=(png(1), png(2)), sampling=sampling)
            sample = only(made.ask([one], nothing))
        (body,) = server.bodies
        assert server.headers[0]["authorization"] == "Bearer secret"
    assert sample.text == "A fine picture." and sample.problem is None
    assert body["model"] == "some-model" and body["seed"] == 5 and "max_tokens" not in body
    assert (body["temperature"], body["top_p"]) == (0.3, 0.8) and "top_k" not in body
    assert prompt_of(body) == "Be kind.\nbefore\n\n"
    for sent, own in zip(pictures_of(body), (png(1), png(2)), strict=True):
        assert sent.tobytes() == Image.open(io.BytesIO(own)).tobytes()
    assert "secret" not in (tmp_path / "answers").read_text()


def test_no_more_requests_at_once_than_allowed_and_replies_in_order(tmp_path):
    gate, seen = threading.Event(), threading.Semaphore(0)

    def reply(body):
        seen.release()
        return Answer(text=prompt_of(body)[::-1], until=gate)

    def open_gate():
        for _ in range(3):
            seen.acquire()
        time.sleep(0.05)  # time for a fourth to come, if it could
        gate.set()

    with serving(reply) as server, expert(server.url, tmp_path / "a", concurrency=3) as made:
        opener = threading.Thread(target=open_gate)
        opener.start()
        replies = made.ask([request(f"question {n}") for n in range(12)], nothing)
        opener.join()
        assert server.most_at_once == 3
    assert [only([reply]).text for reply in replies] == [f"question {n}"[::-1] for n in range(12)]
    assert made.calls["sent"] == 12 and made.calls["completion_tokens"] == 36


def test_nothing_is_asked_twice(tmp_path):
    sampling = SamplingConfig(num_samples=3, temperature=1.0, max_new_tokens=64)
    with serving(lambda body: Answer(text=str(len(server.bodies)))) as server:
        with expert(server.url, tmp_path / "a") as made:
            first = made.ask([request("a", sampling=sampling), request("b"), request("b")], nothing)
            assert len(server.bodies) == 4 and made.calls["from_cache"] == 1
            assert first[1] == first[2]
            assert len({sample.text for sample in first[0]}) == 3
        with expert(server.url, tmp_path / "a") as made:
            again = made.ask([request("b"), request("a", sampling=sampling)], nothing)
            assert len(server.bodies) == 4 and made.calls == {"from_cache": 4}
        assert again == [first[1], first[0]]
        others = [
            request("c"),
            request("b", images=()),
            request("b", sampling=SamplingConfig(temperature=0.5)),
        ]
        with expert(server.url, tmp_path / "a") as made:
            made.ask(others, nothing)
            assert len(server.bodies) == 6 and made.calls["from_cache"] == 1


def test_another_picture_is_another_request(tmp_path):
    messages = ({"role": "user", "content": [{"type": "image"}]},)
    with serving(lambda body: Answer()) as server, expert(server.url, tmp_path / "a") as made:
        asked = [Request(messages=messages, images=(png(seed),)) for seed in (1, 2, 1)]
        made.ask(asked, nothing)
        assert len(server.bodies) == 2


def test_a_refusal_with_retry_after_is_waited_for_by_all(tmp_path):
    naps = Naps()
    busy = Answer(status=429, headers={"Retry-After": "7"}, raw=b'{"error":{"message":"slow"}}')
    with serving(scripted(busy, Answer(text="now"))) as server:
        with expert(server.url, tmp_path / "a", concurrency=1, sleep=naps) as made:
            assert only(made.ask([request()], nothing)).text == "now"
        assert made.calls["retried"] == 1 and len(server.bodies) == 2
    assert naps.seconds[0] == 7.0
    assert sum(naps.seconds) == pytest.approx(14, abs=0.5)  # its own wait, then the common pause


def test_server_errors_are_tried_again_with_growing_waits(tmp_path):
    naps = Naps()
    answers = [Answer(status=500, raw=b"oh no"), Answer(status=503, raw=b"<html>")]
    rubbish = [Answer(raw=b"not json"), Answer(raw=b"[]"), Answer(raw=b'{"choices": []}')]
    with serving(scripted(*answers, *rubbish, Answer(text="at last"))) as server:
        with expert(server.url, tmp_path / "a", sleep=naps, backoff_seconds=2.0) as made:
            assert only(made.ask([request()], nothing)).text == "at last"
    assert len(naps.seconds) == 5
    for attempt, seconds in enumerate(naps.seconds):
        assert 2**attempt <= seconds <= 2 ** (attempt + 1)


@pytest.mark.parametrize(
    ("answer", "problem", "detail"),
    [
        (Answer(status=500, raw=b"oh no"), "expert_failed", r"status 500: oh no \(3 attempts\)"),
        (Answer(raw=b"\xff\xfe"), "expert_failed", r"not a chat completion.*\(3 attempts\)"),
        (Answer(status=429, headers={"Retry-After": "86400"}), "expert_failed", "pause of 86400 s"),
        (Answer(status=400, raw=b'{"error":{"message":"too large"}}'), "refused", "too large"),
        (Answer(status=302, headers={"Location": "http://x"}), "refused", "status 302"),
        (Answer(text="half a sen", finish="length"), "cut_off", "half a sen"),
        (Answer(text="", finish="content_filter"), "withheld", ""),
        (Answer(text=None), "empty_answer", ""),
        (Answer(text="  \n"), "empty_answer", ""),
    ],
)
def test_what_goes_wrong_with_one_request_is_its_problem(tmp_path, answer, problem, detail):
    with serving(lambda body: answer) as server:
        with expert(server.url, tmp_path / "a", retries=2, sleep=Naps()) as made:
            sample = only(made.ask([request()], nothing))
            assert len(server.bodies) == (3 if "attempts" in detail else 1)
    assert sample.problem == problem and re.search(detail, sample.detail)


def test_a_slow_answer_is_given_up(tmp_path):
    never = threading.Event()
    with serving(lambda body: Answer(until=never)) as server:
        with expert(server.url, tmp_path / "a", timeout_seconds=0.1, retries=1, sleep=Naps()) as e:
            sample = only(e.ask([request()], nothing))
            assert len(server.bodies) == 2
        never.set()
    assert sample.problem == "expert_failed"
    assert sample.detail == "no answer in 0.1 s (2 attempts)"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_it_at_once(tmp_path, status):
    raw = b'{"error": {"message": "no: tell-nobody is not\\n it"}}'
    with serving(lambda body: Answer(status=status, raw=raw)) as server:
        with expert(server.url, tmp_path / "a", concurrency=1, api_key="tell-nobody") as made:
            with pytest.raises(UserError, match="'some-model'.*no: \\*\\*\\* is not it") as raised:
                made.ask([request("a"), request("b")], nothing)
            assert len(server.bodies) == 1
    assert "tell-nobody" not in str(raised.value)


def test_an_endpoint_that_is_not_there_ends_it_after_some_failures(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "FAILURES_IN_A_ROW", 5)
    with serving(lambda body: Answer()) as server:
        pass  # its port is closed now
    with expert(server.url, tmp_path / "a", retries=1, sleep=Naps()) as made:
        with pytest.raises(UserError, match="[0-9]+ requests in a row failed.*ConnectError"):
            made.ask([request(str(n)) for n in range(50)], nothing)
        assert made.calls["sent"] < 50


def test_answers_that_came_before_a_stop_are_not_asked_for_again(tmp_path):
    class Enough(Exception):
        pass

    gate = threading.Event()

    def reply(body):
        return Answer(until=None if prompt_of(body) == "quick" else gate)

    def stop():
        if made.calls["completion_tokens"]:
            raise Enough

    with serving(reply) as server:
        with expert(server.url, tmp_path / "a") as made:
            with pytest.raises(Enough):
                made.ask([request("slow"), request("quick")], stop)
        gate.set()
        assert len(server.bodies) == 2
        with expert(server.url, tmp_path / "a") as made:
            made.ask([request("quick")], nothing)
            assert len(server.bodies) == 2


def test_a_cache_that_was_cut_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "a"
    cache = ReplyCache(path)
    for number in range(3):
        cache.put(f"key{number}", {"text": "ä" * number})
    cache.close()
    path.write_bytes(path.read_bytes()[:-4])
    cache = ReplyCache(path)
    assert len(cache) == 2 and cache.get("key1") == {"text": "ä"} and cache.get("key2") is None
    cache.put("key2", {"text": "again"})
    with pytest.raises(UserError, match="in use by another run"):
        ReplyCache(path)
    cache.close()
    cache = ReplyCache(path)
    assert cache.get("key2") == {"text": "again"} and cache.get("key0") == {"text": ""}
    cache.close()


def test_dates_and_numbers_of_retry_after():
    now = 1_700_000_000.0
    assert retry_after(None, now=now) is None and retry_after("soon", now=now) is None
    assert retry_after("2.5", now=now) == 2.5 and retry_after("-3", now=now) == 0.0
    assert retry_after("nan", now=now) is None
    assert retry_after(email.utils.formatdate(now + 30, usegmt=True), now=now) == 30
    assert retry_after(email.utils.formatdate(now - 30, usegmt=True), now=now) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "localhost:8000"}, "expected http"),
        ({"endpoint": "http://x"}, "expected both, or neither"),
        ({"model": "m"}, "expected both, or neither"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"retries": -1}, "retries"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        ExpertConfig(**options)
