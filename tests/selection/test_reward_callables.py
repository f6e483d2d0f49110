"""Rewards, called the way each trainer calls them."""

import subprocess
import sys
from concurrent import futures

import jax.numpy as jnp
import numpy as np
import pytest
from judge_stand_in import judge_scorer
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.selection import arrays
from jaxqa.selection.panel import panel
from jaxqa.selection.rewards import (
    ImageRewardLike,
    flow_grpo_multi_reward,
    flow_grpo_reward,
    trl_reward,
)

WEIGHTS = {"quality": 1, "alignment": 3}


@pytest.fixture(scope="module")
def pixels():
    """[N, H, W, C], whose height tells it from its channels."""
    return np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def prompts():
    return ["10", "30", "50", "70", "90"]


@pytest.fixture
def rewards(pixels, prompts):
    """What the weighted mean of the stand-in's normalised scores comes to."""
    levels = [image.mean((0, 1)).mean() / 255 for image in pixels.astype(np.float64)]
    wanted = [float(prompt) / 100 for prompt in prompts]
    return [(x + 3 * (1 - abs(x - w))) / 4 for x, w in zip(levels, wanted, strict=True)]


def pictures(pixels):
    return [Image.fromarray(image) for image in pixels]


def test_trl_grpo(pixels, prompts, rewards):
    """TRL repeats columns, passes more of them than are known, and makes None of the list nan."""
    torch = pytest.importorskip("torch", reason="needs torch")
    reward = trl_reward(judge_scorer(), WEIGHTS)
    assert reward.__name__ == "quality_alignment"
    columns = {"image": pictures(pixels), "label": list("abcde"), "trainer_state": object()}
    messages = [[{"role": "assistant", "content": "a text"}]] * 5
    asked = [[{"role": "system", "content": "be kind"}, {"role": "user", "content": prompt}]
             for prompt in prompts]  # fmt: skip
    parts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
             for prompt in prompts]  # fmt: skip
    shown = [[{"role": "assistant", "content": [{"type": "image", "image": image}]}]
             for image in pictures(pixels)]  # fmt: skip
    ids = [[1, 2]] * 5
    for found in (
        reward(prompts=prompts, completions=["text"] * 5, completion_ids=ids, **columns),
        reward(prompts=asked, completions=messages, completion_ids=ids, **columns),
        reward(prompts=prompts, completions=pictures(pixels), label=list("abcde")),
        reward(prompts=parts, completions=shown),
    ):
        assert found == pytest.approx(rewards, abs=1e-6)
    broken = [*pictures(pixels)[:4], b"no image"]
    found = reward(prompts=prompts, completions=broken)
    tensor = torch.tensor([torch.nan if r is None else r for r in found], dtype=torch.float32)
    assert torch.isnan(tensor).tolist() == [False] * 4 + [True]
    with pytest.raises(UserError, match="no column 'image'; found label"):
        reward(prompts=prompts, completions=["text"] * 5, label=list("abcde"))
    other = trl_reward(judge_scorer(), column="picture")
    assert other(prompts=["x"], completions=["x"], picture=pictures(pixels)[:1])[0] > 0
    with pytest.raises(UserError, match="no message of the user"):
        reward(prompts=[[{"role": "system", "content": "x"}]], completions=broken[:1])


@pytest.mark.torch
def test_flow_grpo(pixels, prompts, rewards):
    """Its scripts: one function of several in `multi_score`, in threads, on either layout."""
    torch = pytest.importorskip("torch", reason="needs torch")
    score = flow_grpo_reward(judge_scorer(), WEIGHTS)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with futures.ThreadPoolExecutor(max_workers=8) as executor:
        waiting = [
            executor.submit(score, images, tuple(prompts), ({},) * 5)
            for images in [pixels, tensor, tensor.clone().requires_grad_()] * 4
        ]
        for future in waiting:
            scores, info = future.result()
            assert scores == pytest.approx(rewards, abs=1e-6)
            assert [1.0 * value for value in scores] and bool(scores)  # as multi_score uses them
            assert list(info["scores"]) == list(WEIGHTS) and info["errors"] == [None] * 5
    half, _ = score(tensor.to(torch.bfloat16), prompts, {})
    assert half == pytest.approx(rewards, abs=0.01)


@pytest.mark.torch
def test_flow_grpo_in_the_place_of_multi_score(pixels, prompts, rewards):
    torch = pytest.importorskip("torch", reason="needs torch")
    reward_fn = flow_grpo_multi_reward(judge_scorer(), WEIGHTS)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    scores, metadata = reward_fn(tensor, prompts, [{}] * 5, only_strict=True)
    scores = {key: torch.as_tensor(value).float() for key, value in scores.items()}
    assert list(scores) == ["quality", "alignment", "avg"] and metadata == {"errors": [None] * 5}
    assert scores["avg"].tolist() == pytest.approx(rewards, abs=1e-6)
    both = (scores["quality"] + 3 * scores["alignment"]) / 4
    assert both.tolist() == pytest.approx(rewards, abs=1e-6)


@pytest.mark.torch
def test_ddpo(pixels, prompts, rewards):
    """TRL's DDPO: triples of images, prompts and metadata; sums over what comes back."""
    torch = pytest.importorskip("torch", reason="needs torch")
    reward_fn = flow_grpo_reward(judge_scorer(), WEIGHTS)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    found = [
        torch.as_tensor(reward_fn(images, texts, metadata)[0])
        for images, texts, metadata in [(tensor, tuple(prompts), ({},) * 5)]
    ]
    assert torch.cat(found).tolist() == pytest.approx(rewards, abs=1e-6)


def test_images_without_a_score_are_never_made_up(prompts):
    images = [b"no image", Image.new("RGB", (4, 4), "white")]
    with pytest.raises(UserError, match="image 0 has no score: quality: image 0: no image found"):
        flow_grpo_reward(judge_scorer())(images, prompts[:2], None)
    scores, info = flow_grpo_reward(judge_scorer(), failed=0)(images, prompts[:2], None)
    assert scores == [0, 1.0] and info["errors"][0] and info["scores"]["quality"][0] is None
    lookers = panel(judge_scorer(), {"quality": 1, "aesthetics": 0})
    details, _ = flow_grpo_multi_reward(lookers, failed=-1.0)(images, prompts[:2], None)
    assert details == {"quality": [-1, 1], "aesthetics": [-1, 1], "avg": [-1, 1]}
    with pytest.raises(UserError, match="a panel has its own weights"):
        trl_reward(lookers, {"quality": 1})


def test_image_reward(pixels, tmp_path):
    model = ImageRewardLike(judge_scorer(), {"quality": 1})
    levels = [0, 255, 102, 255]
    images = [Image.new("RGB", (4, 4), (level,) * 3) for level in levels]
    images[2].save(tmp_path / "a.png")
    images[2] = str(tmp_path / "a.png")
    assert model.score("x", images[2]) == pytest.approx(0.4)
    assert model.score("x", images) == pytest.approx([0, 1, 0.4, 1])
    ranking, rewards = model.inference_rank("x", images)
    assert ranking == [4, 1, 3, 2] and rewards == pytest.approx([0, 1, 0.4, 1])
    by_text = ImageRewardLike(judge_scorer())
    assert by_text.score("100 of light", images[1]) == pytest.approx(1)  # alignment, if there is


def test_arrays_of_every_library(pixels):
    class Capsule:
        """A tensor that speaks DLPack only."""

        def __dlpack__(self, **options):
            return pixels.__dlpack__(**options)

        def __dlpack_device__(self):
            return pixels.__dlpack_device__()

    first = np.moveaxis(pixels, -1, 1)
    for batch in (pixels, first, jnp.asarray(pixels), Capsule(), list(pixels), list(first)):
        found = arrays.as_images(batch)
        assert len(found) == 5 and all((a == b).all() for a, b in zip(found, pixels, strict=True))
    files = [b"bytes", "path", Image.new("RGB", (2, 2))]
    assert arrays.as_images(files) == files
    for wrong, message in [(pixels[0], "shape"), ("path", "is a str"), (3, "is a int")]:
        with pytest.raises(UserError, match=message):
            arrays.as_images(wrong)


@pytest.mark.slow
def test_torch_is_never_imported():
    code = (
        "import sys; import jaxqa.selection.rewards, jaxqa.selection.run, jaxqa.selection.outputs; "
        "print(sorted({'torch', 'diffusers'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
