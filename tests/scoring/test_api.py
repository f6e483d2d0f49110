"""The scorer's own rules, on a stand-in for the model."""

import io
import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from stand_in import StandInAsker, StandInModel, grey

from jaxqa.data.images import DecodeLimits
from jaxqa.errors import UserError
from jaxqa.scoring import blocks
from jaxqa.scoring.api import ImageScorer
from jaxqa.scoring.expected import ScoreDistribution
from jaxqa.scoring.metric import Metric
from jaxqa.scoring.results import Score, rationale_of


@pytest.fixture
def scorer():
    return ImageScorer(StandInModel(), workers=2)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def brightness(pixels):
    return 1 + 4 * float(np.mean(pixels)) / 255


def test_images_of_any_form_have_one_score(scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels))
    forms = [
        *(path, str(path), png(pixels), bytearray(png(pixels)), Image.open(path), pixels),
        *(pixels.astype(np.float32) / 255, pixels.astype(np.float64) / 255),
    ]
    found = scorer.score(forms)
    assert {score.score for score in found} == {brightness(pixels)}
    assert {score.error for score in found} == {None}
    assert found[0].name == str(path) and found[2].name == "image 2"
    assert scorer.score(pixels) == scorer.score([pixels])
    batch = np.stack([pixels, 255 - pixels])
    assert [s.score for s in scorer.score(batch)] == [brightness(image) for image in batch]
    assert scorer.score([]) == []


def test_grey_and_transparent_arrays(scorer):
    level = np.full((4, 5), 51, np.uint8)
    opaque = np.dstack([grey(51), np.full((8, 8), 255, np.uint8)])
    clear = np.dstack([grey(51), np.zeros((8, 8), np.uint8)])  # on white
    found = [score.score for score in scorer.score([level, level[..., None], opaque, clear])]
    assert found == [pytest.approx(1.8), pytest.approx(1.8), pytest.approx(1.8), 5.0]


def test_results_are_in_the_order_of_the_images(scorer):
    random = np.random.default_rng(3)
    levels = random.integers(0, 256, 100).tolist()
    images = [grey(level, (8 + level % 4, 8)) for level in levels]
    found = scorer.score(images, batch_size=3)
    assert [score.score for score in found] == [1 + 4 * level / 255 for level in levels]
    assert [score.normalised for score in found] == pytest.approx([n / 255 for n in levels])


def test_a_wrong_image_is_an_error_of_its_own(scorer, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no")
    bad = [
        (broken, "broken.jpg"),
        (tmp_path / "none.png", "cannot read"),
        (tmp_path, "not a regular file"),
        (b"", "empty"),
        (np.zeros((3, 8, 8), np.uint8), "move the channels to the end"),
        (np.zeros((8, 8, 3), np.int32), "int32"),
        (np.full((8, 8, 3), 1.5), "from 1.5 to 1.5"),
        (np.full((8, 8, 3), np.nan, np.float32), "expected values from 0 to 1"),
        (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
        (Image.new("F", (4, 4)), "no defined range"),
        (7, "is a int"),
        (None, "is a NoneType"),
        ("http://example.org/a.png", "allow_urls"),
        ("file:///etc/passwd", "allow_urls"),
        ("a\0b.png", "null"),
    ]
    images = list(itertools.chain.from_iterable((grey(10), image) for image, _ in bad))
    found = scorer.score(images)
    for good, wrong, (_, message) in zip(found[::2], found[1::2], bad, strict=True):
        assert good.score == 1 + 40 / 255 and good.error is None
        assert wrong.score is None and message in wrong.error and wrong.normalised is None
    assert "http" in scorer.score("file:///etc/passwd", allow_urls=True)[0].error


def test_limits_hold_for_arrays_and_files(tmp_path):
    scorer = ImageScorer(StandInModel(), limits=DecodeLimits(max_pixels=100))
    found = scorer.score([grey(1, (10, 10)), grey(1, (10, 11)), png(grey(1, (11, 10)))])
    assert found[0].error is None and all("limit" in score.error for score in found[1:])


def test_a_picture_may_change_once_it_was_taken(scorer):
    buffer = np.zeros((8, 8, 3), np.uint8)

    def frames():
        for level in range(50):
            buffer[:] = level
            yield buffer

    assert [s.score for s in scorer.score(frames())] == [1 + 4 * n / 255 for n in range(50)]


def test_endless_images_need_little_memory(scorer):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield grey(number % 256)

    stream = scorer.stream(endless())
    found = dict(itertools.islice(stream, 30))
    stream.close()
    assert found.keys() == set(range(30)) and len(taken) < 60
    assert not [t for t in threading.enumerate() if t.name.startswith("prepare")]


def test_blocks_are_full_where_they_can_be_and_pure():
    asker = StandInAsker(rows=4)
    scorer = ImageScorer(StandInModel(asker), workers=3)
    sizes = [8, 9] * 9 + [8]
    scorer.score([grey(0, (size, 8)) for size in sizes])
    assert sorted(asker.blocks) == [1, 2, 4, 4, 4, 4]


def test_a_failure_of_the_model_is_not_swallowed():
    class Failing(StandInAsker):
        def collect(self, running):
            raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        ImageScorer(StandInModel(Failing())).score([grey(1)])


def test_texts_of_alignment(scorer):
    with pytest.raises(UserError, match="give prompts"):
        scorer.score(grey(1), task="alignment")
    images = [grey(1), grey(2)]
    assert len(scorer.score(images, "alignment", "a cat")) == 2
    found = scorer.score(images, "alignment", ["a cat", "unusable"])
    assert found[0].error is None and found[1].error == "the prompt is unusable"
    with pytest.raises(UserError, match="prompts: not as many as images"):
        scorer.score(images, "alignment", ["a cat"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "taste"}, "task is 'taste'; expected one of quality"),
        ({"mode": "slow"}, "mode is 'slow'"),
        ({"mode": "fast"}, "not this model"),
        ({"mode": "think", "samples": 3}, "greedy decoding writes one answer"),
        ({"mode": "mean", "temperature": 0.0}, "would all be the same"),
        ({"mode": "mean", "samples": 0}, "num_samples"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"images": 3}, "images is a int"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_options_are_refused(scorer, options, message):
    with pytest.raises(UserError, match=message):
        scorer.score(**{"images": [grey(1)], **options})


def test_a_score_is_never_made_up():
    with pytest.raises(ValueError, match="exactly one"):
        Score(score=None, error=None, score_range=(1.0, 5.0))
    for number in (0.9, 5.1, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            Score(score=number, error=None, score_range=(1.0, 5.0))


def test_a_score_is_short_at_a_prompt():
    distribution = ScoreDistribution(
        values=np.linspace(1, 5, 401), probabilities=np.full(401, 1 / 401), mass=0.9
    )
    found = Score(score=3.0, error=None, score_range=(1.0, 5.0), distribution=distribution)
    assert "ScoreDistribution(mean=3, spread=1.158, 401 values, mass=0.9)" in repr(found)
    assert len(repr(found)) < 250


@pytest.mark.parametrize(
    ("text", "rationale"),
    [
        ("<think> soft </think><answer> 3 </answer>", "soft"),
        ("soft <answer> 3 </answer>", "soft"),
        ("<think>cut off", "cut off"),
        ("<think> a <answer> 3 </answer>", "a"),
        ("<answer> 3 </answer>", ""),
        ("", ""),
    ],
)
def test_rationales(text, rationale):
    assert rationale_of(text) == rationale


def test_the_metric_has_the_shape_of_pyiqa(scorer, tmp_path):
    metric = Metric(scorer, scorer.question())
    assert metric.lower_better is False and metric.score_range == (1.0, 5.0)
    batch = np.random.default_rng(1).random((3, 3, 8, 9), np.float32)
    expected = [
        brightness(np.rint(image * 255)) for image in batch.transpose(0, 2, 3, 1).astype(np.float64)
    ]
    np.testing.assert_allclose(metric(batch), expected, rtol=1e-12)
    np.testing.assert_array_equal(metric(batch[0]), metric(batch[:1]))
    paths = []
    for number, level in enumerate((0, 255)):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(grey(level)).save(paths[-1])
    assert metric(paths).tolist() == [1.0, 5.0] and metric(paths[1]).shape == (1,)
    assert metric(Image.open(paths[1])).tolist() == [5.0]
    with pytest.raises(UserError, match="none.png"):
        metric([*paths, "none.png"])
    lenient = Metric(scorer, scorer.question(), on_error="nan")
    np.testing.assert_array_equal(lenient([paths[1], "none.png"]), [5.0, np.nan])
    with pytest.raises(UserError, match="leave ref out"):
        metric(paths, paths)
    with pytest.raises(UserError, match="channels"):
        metric(np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(UserError, match="not this model"):
        Metric(scorer, scorer.question(mode="fast"))


def test_comparing_by_scores(scorer):
    dark, light = grey(10), grey(200)
    assert scorer.compare(light, dark).choice == "Image A"
    found = scorer.compare(dark, light, reference=dark)
    assert (found.choice, found.preference, found.method) == ("Image B", 0.0, "scores")
    assert scorer.compare(dark, dark.copy()).choice == "Similar"
    broken = scorer.compare(dark, b"nothing")
    assert broken.choice is None and broken.preference is None and "image B" in broken.error


def test_queries_are_prepared_in_order_in_any_number_of_threads():
    class Query:
        prompt = None

        def __init__(self, level):
            self.level = level

        def load(self):
            return [grey(self.level)]

    for workers in (1, 5):
        asker = StandInAsker(rows=2)
        found = blocks.answer_all(asker, map(Query, range(20)), workers=workers, blocks=1)
        assert [number for number, _ in found] == list(range(20))


def test_importing_the_package_loads_nothing():
    code = "import jaxqa, sys; print({'jax', 'numpy', 'PIL'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
