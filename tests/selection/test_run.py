"""Best of N and reflection, on instant judges and makers."""

import json
import shutil
import sys
import threading
import time

import judge_stand_in
import pytest
from judge_stand_in import colour, judge_scorer, lighten, paint, write_picture

from jaxqa.errors import UserError
from jaxqa.selection import outputs
from jaxqa.selection.commands import Command
from jaxqa.selection.panel import Judge, Panel, panel
from jaxqa.selection.prompt_sets import PromptSet, read
from jaxqa.selection.python_generators import Function
from jaxqa.selection.reflection import Reflection
from jaxqa.selection.run import Makers, best_of_n


class Stop(Exception):
    pass


@pytest.fixture
def judges():
    judge_stand_in.asked.clear()
    return panel(judge_scorer(), {"quality": 1, "aesthetics": 3, "alignment": 0})


def prompts(*texts):
    return [
        PromptSet(key=f"{n:05d}", prompt=text, metadata={"prompt": text, "tag": "colors"})
        for n, text in enumerate(texts)
    ]


def expected_share(prompt, seed):
    """Combined score of a painted candidate under the fixture's weights."""
    red, green, blue = colour(prompt, seed)
    return 0.25 * (red + green + blue) / 3 / 255 + 0.75 * red / 255


def counting(function=paint, **fails):
    """A maker that counts its calls and fails at some seeds of some prompts."""
    calls = []

    def make(prompt, seed):
        calls.append((prompt, seed))
        if seed in fails.get(prompt, ()):
            raise RuntimeError("out of luck")
        return function(prompt, seed)

    return Function(make, name="counting"), calls


def test_several_are_made_at_a_time_and_are_the_same(tmp_path, judges):
    """Four threads meet in the maker, never five; what is found equals what one by one finds."""
    meeting, lock, inside, most = threading.Barrier(4), threading.Lock(), 0, 0

    def slow(prompt, seed):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        meeting.wait(20)
        with lock:
            inside -= 1
        if (prompt, seed) == ("60", 1):
            raise RuntimeError("out of luck")
        return paint(prompt, seed)

    one, _ = counting(**{"60": (1,)})
    several = Makers(generator=Function(slow, name="counting"), candidates=8, jobs=4)
    runs = {}
    for name, makers in (("one", Makers(generator=one, candidates=8)), ("four", several)):
        steps = []
        found = best_of_n(
            prompts("40", "60"), judges, tmp_path / name, makers=makers,
            watch=lambda what, done, total, steps=steps: steps.append((what, done, total)),
        )  # fmt: skip
        assert [step for step in steps if step[0] == "make"] == [
            ("make", n, 16) for n in range(1, 17)
        ]
        runs[name] = [[(c.number, c.seed, c.scores, c.error) for c in s.candidates] for s in found]
    assert most == 4 and runs["one"] == runs["four"]
    # How many at a time changes no image, so it may change from one run to the next.
    again = Makers(generator=Function(slow, name="counting"), candidates=8, jobs=1)
    assert again.settings() == several.settings()


class Several(Function):
    """Makes up to four images in a call, unless one of them cannot be made."""

    at_once = 4

    def __init__(self, function):
        super().__init__(function, name="counting")
        self.calls = []

    def make_several(self, requests, outputs):
        self.calls.append([(request.prompt, request.seed) for request in requests])
        for request, output in zip(requests, outputs, strict=True):
            self.make(request, output)


def test_several_are_made_in_a_call_and_are_the_same(tmp_path, judges):
    """Over the borders of prompts, in rounds of reflection too, and after a stop."""
    options = {"reflection": Reflection(rounds=1, candidates=2)}
    texts, one = prompts("40", "60"), counting(**{"60": (1,)})[0]
    wanted = best_of_n(
        texts, judges, tmp_path / "one", makers=Makers(generator=one, candidates=3), **options
    )
    maker = Several(counting(**{"60": (1,)})[0]._function)
    makers = Makers(generator=maker, candidates=3)

    def watch(what, done, total):
        if len(maker.calls) == 1 and done == 2 and not watch.stopped:
            watch.stopped = True
            raise Stop

    watch.stopped = False
    with pytest.raises(Stop):
        best_of_n(texts, judges, tmp_path / "four", makers=makers, watch=watch, **options)
    found = best_of_n(
        texts, judges, tmp_path / "four", makers=makers, resume=True, watch=watch, **options
    )
    first = [("40", 0), ("40", 1), ("40", 2), ("60", 0)]
    assert maker.calls[:2] == [first, [("60", 1), ("60", 2)]]  # four were written down
    assert [len(call) for call in maker.calls[2:]] == [4]

    def told(selections):
        return [
            [(c.number, c.seed, c.instruction, c.scores, c.error) for c in s.candidates]
            for s in selections
        ]

    assert told(found) == told(wanted)


@pytest.mark.parametrize("error", [KeyError("a bug"), Stop()])
def test_what_other_threads_make_is_given_up(tmp_path, judges, error):
    """A bug, or a request to stop, ends the programs that run; they are made by a later run."""
    program = "import sys, time; time.sleep(60 if sys.argv[3] != '0' else 0); sys.exit(5)"
    command = Command(f'{sys.executable} -c "{program}" {{prompt}} {{output}} {{seed}}')

    def watch(what, done, total):
        raise error

    begun = time.monotonic()
    makers = Makers(generator=command, candidates=6, jobs=3)
    with pytest.raises(type(error)):
        best_of_n(prompts("40"), judges, tmp_path / "run", makers=makers, watch=watch)
    assert time.monotonic() - begun < 20
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()[1:]
    made = {line["number"]: line["image"]["error"] for line in map(json.loads, lines)}
    assert set(made) <= {0, 1, 2, 3} and all(made.values())


def test_the_best_of_what_is_made(tmp_path, judges):
    maker, calls = counting()
    makers = Makers(generator=maker, candidates=5, seed=10)
    found = best_of_n(prompts("40", "60"), judges, tmp_path / "run", makers=makers)
    assert calls == [(text, seed) for text in ("40", "60") for seed in range(10, 15)]
    for selection in found:
        shares = [expected_share(selection.prompts.prompt, seed) for seed in range(10, 15)]
        assert [c.combined(judges.weights) for c in selection.candidates] == pytest.approx(shares)
        assert selection.best(judges.weights).number == shares.index(max(shares))
    assert sorted(set(judge_stand_in.asked), key=str) == [
        ("aesthetics", None),
        ("alignment", "40"),
        ("alignment", "60"),
        ("quality", None),  # only alignment is shown the text
    ]
    assert len(judge_stand_in.asked) == 2 * 5 * 3


def test_images_that_are_there(tmp_path, judges):
    for name, level in {"x/a.png": 10, "x/b.png": 200, "y/c.png": 30}.items():
        write_picture(tmp_path / "in" / name, level)
    (tmp_path / "in" / "x" / "broken.png").write_bytes(b"no image")
    (tmp_path / "in" / "z").mkdir()
    (tmp_path / "in" / "z" / "d.png").write_bytes(b"")
    found = best_of_n(read(tmp_path / "in", images=True), judges, tmp_path / "out")
    weights = judges.weights
    best = [s.best(weights) and s.best(weights).path.rpartition("/")[2] for s in found]
    assert best == ["b.png", "c.png", None]
    broken = found[0].candidates[2]
    assert broken.combined(weights) is None and "no image found" in broken.why_unscored(weights)
    outputs.write(found, weights, tmp_path / "out", title="t")
    lines = [json.loads(line) for line in (tmp_path / "out/trace.jsonl").read_text().splitlines()]
    assert [line["chosen"] for line in lines] == [False, True, False, True, False]
    assert [line["combined"] is None for line in lines] == [False, False, True, False, True]
    assert lines[2]["scores"]["quality"]["score"] is None and lines[2]["error"]


def test_equal_scores_choose_the_first(tmp_path, judges):
    paths = [str(write_picture(tmp_path / f"{n}.png", 50)) for n in range(3)]
    source = [PromptSet(key="00000", prompt="x", metadata={}, images=tuple(paths))]
    (found,) = best_of_n(source, judges, tmp_path / "out")
    assert found.best(judges.weights).number == 0


@pytest.mark.parametrize("phase", ["make", "score"])
def test_a_killed_run_goes_on(tmp_path, judges, phase):
    options = {"reflection": Reflection(rounds=2, candidates=2)}
    texts = prompts("40", "60", "80")

    def run(folder, watch=lambda *_: None, **more):
        maker, calls = counting()
        judge_stand_in.asked.clear()
        makers = Makers(generator=maker, candidates=3)
        found = best_of_n(texts, judges, folder, makers=makers, watch=watch, **options, **more)
        return found, calls, len(judge_stand_in.asked)

    whole, calls, asked = run(tmp_path / "whole")
    assert len(calls) == 3 * (3 + 2 * 2) and asked == len(calls) * 3
    for stop_after in (1, 4, 9):
        folder, steps = tmp_path / f"cut{stop_after}", []

        def watch(what, done, total, steps=steps, stop_after=stop_after):
            steps.append(what)
            if steps.count(phase) == stop_after and what == phase:
                raise Stop

        with pytest.raises(Stop):
            run(folder, watch)
        journal = folder / "journal.jsonl"
        before = [json.loads(line) for line in journal.read_bytes().splitlines()[1:]]
        journal.write_bytes(journal.read_bytes() + b'{"key": "half')
        with pytest.raises(UserError, match="give --resume to go on"):
            run(folder)
        found, again, scored = run(folder, resume=True)
        images = sum("image" in line for line in before)
        assert len(again) == len(calls) - images  # none twice
        assert scored <= asked - (len(before) - images) + 3 * 4  # what was in a block, at most
        relative = [
            [(c.number, c.instruction, c.scores, c.seed) for c in s.candidates] for s in found
        ]
        assert relative == [
            [(c.number, c.instruction, c.scores, c.seed) for c in s.candidates] for s in whole
        ]


def test_other_settings_are_not_mixed_in(tmp_path, judges):
    maker, _ = counting()
    makers = Makers(generator=maker, candidates=2)
    best_of_n(prompts("40"), judges, tmp_path / "run", makers=makers)
    other = Makers(generator=maker, candidates=2, seed=1)
    with pytest.raises(UserError, match=r"other settings \(seed 0, now 1\)"):
        best_of_n(prompts("40"), judges, tmp_path / "run", makers=other, resume=True)
    lighter = panel(judge_scorer(), {"quality": 1})
    with pytest.raises(UserError, match="judges"):
        best_of_n(prompts("40"), lighter, tmp_path / "run", makers=makers, resume=True)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="is not empty, or another --output|is not empty"):
        best_of_n(prompts("40"), judges, tmp_path / "used", makers=makers)


def test_failures_are_counted_and_tried_again(tmp_path, judges):
    texts = prompts("40", "60")
    seeds = range(3)
    best = max(seeds, key=lambda seed: expected_share("40", seed))
    maker, _ = counting(**{"40": [best], "60": [0, 1, 2]})
    folder = tmp_path / "run"
    makers = Makers(generator=maker, candidates=3)
    found = best_of_n(texts, judges, folder, makers=makers)
    first, second = found
    assert first.candidates[best].error == "RuntimeError: out of luck"
    assert first.candidates[best].path is None and first.best(judges.weights).number != best
    assert second.best(judges.weights) is None
    outputs.write(found, judges.weights, folder, title="t")
    assert not (folder / "chosen" / "00001").exists()
    page = (folder / "index.html").read_text()
    assert "No image could be chosen for 1 prompt" in page and "RuntimeError: out of luck" in page
    lucky, calls = counting()
    makers = Makers(generator=lucky, candidates=3)
    found = best_of_n(texts, judges, folder, makers=makers, resume=True)
    assert len(calls) == 4  # what was made is not made again
    assert found[0].best(judges.weights).number == best
    outputs.write(found, judges.weights, folder, title="t")  # the earlier choice makes way
    chosen = folder / "chosen" / "00000" / "samples" / "00000.png"
    assert chosen.read_bytes() == (folder / f"candidates/00000/samples/0000{best}.png").read_bytes()
    assert (folder / "chosen" / "00001" / "samples").is_dir()


def test_changed_folders_are_noticed(tmp_path, judges):
    write_picture(tmp_path / "in" / "x" / "b.png", 5)
    best_of_n(read(tmp_path / "in", images=True), judges, tmp_path / "out")
    write_picture(tmp_path / "in" / "x" / "a.png", 5)
    with pytest.raises(UserError, match="the images changed since the run began"):
        best_of_n(read(tmp_path / "in", images=True), judges, tmp_path / "out", resume=True)


def test_reflection_tells_the_generator_what_was_wrong(tmp_path, judges):
    maker, calls = counting()
    reflection = Reflection(rounds=2, candidates=2, template="{round}: {prompt}, not {rationale}")
    makers = Makers(generator=maker, candidates=3)
    (found,) = best_of_n(
        prompts("40"), judges, tmp_path / "run", makers=makers, reflection=reflection
    )
    weights = judges.weights
    assert [c.round for c in found.candidates] == [0, 0, 0, 1, 1, 2, 2]
    assert [seed for _, seed in calls] == list(range(7))
    for number in (1, 2):
        best = found.best(weights, rounds=number)
        worst = min(
            ("quality", "aesthetics"), key=lambda name: best.scores[name]["normalised"]
        )  # alignment has no weight
        told = f"{number}: 40, not {best.scores[worst]['rationale']}"
        assert {c.instruction for c in found.candidates if c.round == number} == {told}
    assert found.stopped == "all rounds made"


def test_editors_start_from_the_best_image(tmp_path, judges):
    for name, level in {"x/a.png": 10, "x/b.png": 90}.items():
        write_picture(tmp_path / "in" / name, level)
    makers = Makers(editor=Function(lighten, edits=True))
    (found,) = best_of_n(
        read(tmp_path / "in", images=True),
        judges,
        tmp_path / "run",
        makers=makers,
        reflection=Reflection(rounds=3),
    )
    first, second, third = found.candidates[2:]
    assert first.start == str((tmp_path / "in/x/b.png").absolute())
    assert second.start == str((tmp_path / "run/candidates/00000/samples/00002.png").absolute())
    assert found.best(judges.weights) is third
    assert third.scores["quality"]["normalised"] == pytest.approx(234 / 255, abs=0.01)


@pytest.mark.parametrize(
    ("options", "rounds", "reason"),
    [
        ({"rounds": 5, "stop_at": 0.8}, 2, "the score reached 0.8"),
        ({"rounds": 5, "stop_at": 0.1}, 0, "the score reached 0.1"),
        ({"rounds": 1}, 1, "all rounds made"),
        ({"rounds": 9, "epsilon": 0.2, "patience": 1}, 2, "no gain in 1 rounds"),
        ({"rounds": 9, "epsilon": 0.2, "patience": 3}, 4, "no gain in 3 rounds"),
        ({"rounds": 9, "budget": 3}, 3, "the budget is spent"),
    ],
)
def test_when_reflection_stops(tmp_path, judges, options, rounds, reason):
    write_picture(tmp_path / "in" / "x" / "a.png", 90)  # 0.35, 0.68, 0.84, 0.92, ...
    (found,) = best_of_n(
        read(tmp_path / "in", images=True),
        judges,
        tmp_path / "run",
        makers=Makers(editor=Function(lighten, edits=True)),
        reflection=Reflection(**options),
    )
    made = [c for c in found.candidates if c.round]
    wanted = rounds if "budget" not in options else 2  # the first image counts too
    assert (len(made), found.stopped) == (wanted, reason)


def test_the_budget_is_shared(tmp_path, judges):
    maker, calls = counting()
    found = best_of_n(
        prompts("40", "60"),
        judges,
        tmp_path / "run",
        makers=Makers(generator=maker, candidates=2),
        reflection=Reflection(rounds=5, candidates=2, budget=8),
    )
    assert len(calls) == 8
    assert [s.stopped for s in found] == ["the budget is spent"] * 2


def test_judges_without_reasons(tmp_path):
    silent = panel(judge_scorer(reasons=False), {"quality": 1})
    maker, _ = counting()
    (found,) = best_of_n(
        prompts("40"),
        silent,
        tmp_path / "run",
        makers=Makers(generator=maker, candidates=1),
        reflection=Reflection(rounds=2),
    )
    assert found.stopped == "the judge gave no reasons" and len(found.candidates) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"makers": Makers()}, "has no images, and there is no generator"),
        ({"prompts": prompts("a") * 2}, "two prompts have one key"),
        ({"reflection": Reflection(rounds=1, judge="nobody")}, "reflection is on 'nobody'"),
        ({"reflection": Reflection(rounds=1, budget=3)}, "the first round alone makes 4"),
        ({"reflection": Reflection(budget=3)}, "the first round alone makes 4"),
    ],
)
def test_runs_that_cannot_be_meant(tmp_path, judges, change, message):
    maker, calls = counting()
    options = {"prompts": prompts("a"), "makers": Makers(generator=maker), **change}
    sets = options.pop("prompts")
    with pytest.raises(UserError, match=message):
        best_of_n(sets, judges, tmp_path / "run", **options)
    assert not calls and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [{"rounds": -1}, {"candidates": 0}, {"epsilon": -1.0}, {"stop_at": float("nan")},
     {"template": "{prompt}"}, {"budget": -1}, {"patience": -2}],
)  # fmt: skip
def test_reflections_that_cannot_be_meant(options):
    with pytest.raises(UserError):
        Reflection(**options)


def test_panels(tmp_path):
    scorer = judge_scorer()
    with pytest.raises(UserError, match="no judge has a weight"):
        panel(scorer, {"quality": 0})
    with pytest.raises(UserError, match="expected 0 or more"):
        panel(scorer, {"quality": -1})
    with pytest.raises(UserError, match="expected each name once"):
        Panel([Judge(name="x", scorer=scorer, question=scorer.question())] * 2)
    assert panel(scorer).weights == {"quality": 1.0}
    with pytest.raises(UserError, match="2 images with 1 prompts"):
        panel(scorer).judge(["a", "b"], ["x"])


def test_chosen_images_in_geneval_layout(tmp_path, judges):
    maker, _ = counting()
    folder = tmp_path / "run"
    found = best_of_n(
        prompts("40", "60"), judges, folder, makers=Makers(generator=maker, candidates=2)
    )
    outputs.write(found, judges.weights, folder, title="t")
    for selection in found:
        home = folder / "chosen" / selection.prompts.key
        metadata = json.loads((home / "metadata.jsonl").read_text())
        assert metadata == {"prompt": selection.prompts.prompt, "tag": "colors"}
        best = selection.best(judges.weights)
        copied = (home / "samples" / "00000.png").read_bytes()
        assert (
            copied
            == (
                folder / f"candidates/{selection.prompts.key}/samples/{best.number:05d}.png"
            ).read_bytes()
        )
    assert [s.prompts.prompt for s in found] == [
        s.prompt for s in read(folder / "chosen", images=True)
    ]
    everything = read(folder / "candidates", images=True)
    assert [(s.prompt, len(s.images), s.metadata["tag"]) for s in everything] == [
        ("40", 2, "colors"),
        ("60", 2, "colors"),
    ]


def test_links_and_compbench_names(tmp_path, judges):
    picture = write_picture(tmp_path / "in" / "a cat" / "x.jpg", 7)
    found = best_of_n(read(tmp_path / "in", images=True), judges, tmp_path / "out")
    for _ in range(2):  # again: nothing changes
        outputs.write(
            found, judges.weights, tmp_path / "out", title="t", layout="compbench", link=True
        )
    link = tmp_path / "out" / "chosen" / "samples" / "a cat_000000.jpg"
    assert link.is_symlink() and link.resolve() == picture.resolve()
    shutil.move(tmp_path / "in", tmp_path / "elsewhere")
    assert not link.exists()


def test_nothing_is_overwritten(tmp_path, judges):
    write_picture(tmp_path / "in" / "a cat" / "x.png", 7)
    found = best_of_n(read(tmp_path / "in", images=True), judges, tmp_path / "out")
    mine = tmp_path / "out" / "chosen" / "00000" / "samples" / "00000.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match="is no candidate; give another --output"):
        outputs.write(found, judges.weights, tmp_path / "out", title="t")
    assert mine.read_bytes() == b"mine"
    long = [PromptSet(key="00000", prompt="x" * 300, metadata={}, images=(str(mine),))]
    best = best_of_n(long, judges, tmp_path / "out2")
    best[0].candidates[0].scores = found[0].candidates[0].scores
    with pytest.raises(UserError, match="use --layout=geneval"):
        outputs.write(best, judges.weights, tmp_path / "out2", title="t", layout="compbench")
