"""The sampler on a small random Qwen2.5-VL: against Hugging Face and against the training forward.

The weights are large enough (standard deviation 0.2) for every token to depend on the images.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxqa.models.qwen2_5_vl import layout, weights
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig, TextConfig, VisionConfig
from jaxqa.models.qwen2_5_vl.inputs import PromptRow, Prompts, stack_rows
from jaxqa.models.qwen2_5_vl.model import Qwen2_5_VL
from jaxqa.sampling import compaction, decoding
from jaxqa.sampling import keys as keys_lib
from jaxqa.sampling import sampler as sampling_sampler
from jaxqa.sampling.sampler import Rollout, Sampler, SamplingConfig
from jaxqa.typing import Params

IMAGE, VISION_START, VISION_END, PAD = 150, 151, 152, 153
CONFIG = Qwen2_5_VLConfig(
    vision=VisionConfig(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=64,
        fullatt_block_indexes=(1,),
    ),
    text=TextConfig(
        vocab_size=157,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(2, 3, 3),
        max_position_embeddings=512,
    ),
    image_token_id=IMAGE,
    video_token_id=154,
    vision_start_token_id=VISION_START,
    vision_end_token_id=VISION_END,
    bos_token_id=155,
    eos_token_id=156,
    pad_token_id=PAD,
    initializer_range=0.2,
)
MODEL = Qwen2_5_VL(config=CONFIG)
# Height and width of each row's images: square, wide, tall, two of different size, none, several
# windows with ragged edges.
SIZES = [[(56, 56)], [(28, 168)], [(140, 28)], [(84, 84), (56, 140)], [], [(140, 168)]]


def make_example(row: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Token ids and images of one prompt; rows differ in length."""
    rng = np.random.default_rng(row)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES[row]]
    ids = rng.integers(0, 150, size=2 + row).tolist()
    for height, width in SIZES[row]:
        ids += [VISION_START, *[IMAGE] * (height * width // 28**2), VISION_END]
        ids += rng.integers(0, 150, size=3).tolist()
    return np.array(ids, np.int32), images


@functools.cache
def make_row(row: int) -> PromptRow:
    ids, images = make_example(row)
    return layout.build_row(ids, images, CONFIG)


def make_prompts(rows: list[int], *, prompt_length: int = 48, num_windows: int = 4) -> Prompts:
    return stack_rows(
        [make_row(row) for row in rows], prompt_length=prompt_length, num_windows=num_windows
    )


@pytest.fixture(scope="module")
def params() -> Params:
    return jax.jit(MODEL.init)(jax.random.key(0))


SAMPLER = Sampler(
    model=MODEL,
    config=SamplingConfig(num_samples=3, max_new_tokens=10, temperature=1.3, top_p=0.95),
    stop_token_ids=tuple(range(0, 150, 9)),
    pad_token_id=PAD,
)


def sample(params: Params, prompts: Prompts, ids: list[int]) -> Rollout:
    keys = keys_lib.sample_keys(0, "grpo", 7, np.array(ids), 3)
    return jax.device_get(SAMPLER(params, prompts, keys))


@pytest.fixture(scope="module")
def rollout(params: Params) -> Rollout:
    return sample(params, make_prompts(list(range(6))), [10, 11, 12, 13, 14, 15])


def test_log_probs_and_entropies_equal_those_of_the_training_forward(
    params: Params, rollout: Rollout
):
    assert 1 < rollout.length.min() < rollout.length.max() == 10
    prompts = jax.tree.map(jnp.asarray, make_prompts(list(range(6))))
    hidden = jax.jit(MODEL.group_hidden)(params, prompts, jnp.asarray(rollout.token_ids))
    logits = np.asarray(hidden, np.float64) @ np.asarray(MODEL.head(params), np.float64).T
    expected = scipy.special.log_softmax(logits / 1.3, axis=-1)
    picked = np.take_along_axis(expected, rollout.token_ids[..., None], axis=-1)[..., 0]
    mask = rollout.mask
    np.testing.assert_allclose(rollout.log_probs[mask], picked[mask], rtol=1e-5, atol=1e-5)
    entropies = -(np.exp(expected) * expected).sum(-1)
    np.testing.assert_allclose(rollout.entropies[mask], entropies[mask], rtol=1e-5, atol=1e-5)
    assert len(np.unique(rollout.token_ids[mask])) > 50


def test_tokens_do_not_depend_on_place_neighbours_or_padding(params: Params, rollout: Rollout):
    shuffled = sample(params, make_prompts([4, 2, 5, 0, 1, 3]), [14, 12, 15, 10, 11, 13])
    order = [4, 2, 5, 0, 1, 3]
    np.testing.assert_array_equal(shuffled.token_ids, rollout.token_ids[order])
    part = sample(params, make_prompts([3, 0], prompt_length=64, num_windows=5), [13, 10])
    np.testing.assert_array_equal(part.token_ids, rollout.token_ids[[3, 0]])
    np.testing.assert_allclose(part.log_probs, rollout.log_probs[[3, 0]], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(part.mask, rollout.mask[[3, 0]])


@pytest.fixture(scope="module")
def hf_model(tmp_path_factory: pytest.TempPathFactory, params: Params):
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("hf") / "model"
    weights.save_pretrained(directory, CONFIG, params)
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(directory)
    return model.eval()


def hf_greedy(model, length: int, stop_token_ids: list[int]) -> list[list[int]]:
    """Greedy completions of all rows in one left-padded batch, pads after the stop cut off."""
    import torch
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as processing

    examples = [make_example(row) for row in range(6)]
    longest = max(len(ids) for ids, _ in examples)
    ids = np.full((6, longest), PAD)
    for padded, (real, _) in zip(ids, examples, strict=True):
        padded[longest - len(real) :] = real
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 100}
    processor = processing.Qwen2VLImageProcessorPil(size=size)
    pixels = processor([image for _, images in examples for image in images], return_tensors="pt")
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy((ids != PAD).astype(np.int64)),
            mm_token_type_ids=torch.from_numpy((ids == IMAGE).astype(np.int32)),
            **pixels,
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=stop_token_ids,
            pad_token_id=PAD,
        )
    completions = output[:, longest:].tolist()
    ends = [
        next((i + 1 for i, t in enumerate(c) if t in stop_token_ids), length) for c in completions
    ]
    return [completion[:end] for completion, end in zip(completions, ends, strict=True)]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
@pytest.mark.parametrize("stops", [[156], list(range(1, 150, 13))])
def test_greedy_equals_hugging_face_generate(params: Params, hf_model, stops: list[int]):
    expected = hf_greedy(hf_model, 14, stops)
    greedy = SamplingConfig(num_samples=1, max_new_tokens=14, temperature=0.0)
    sampler = dataclasses.replace(SAMPLER, config=greedy, stop_token_ids=tuple(stops))
    keys = keys_lib.sample_keys(0, "generate", 0, np.arange(6), 1)
    rollout = jax.device_get(sampler(params, make_prompts(list(range(6))), keys))
    actual = [
        ids[0, : size[0]].tolist()
        for ids, size in zip(rollout.token_ids, rollout.length, strict=True)
    ]
    assert actual == expected
    assert len(set(map(tuple, actual))) == 6
    assert (min(map(len, actual)) < 14) == (len(stops) > 1)


def test_completions_that_leave_change_nothing(params: Params, rollout: Rollout, monkeypatch):
    widths, compact = [], compaction.compact

    def spy(*arrays, width, **options):
        widths.append(width)
        return compact(*arrays, width=width, **options)

    monkeypatch.setattr(compaction, "compact", spy)
    keys = keys_lib.sample_keys(0, "grpo", 7, np.array([10, 11, 12, 13, 14, 15]), 3)
    sampler = dataclasses.replace(SAMPLER, cache_lengths=(4, 9), row_blocks=2)
    assert_same(jax.device_get(sampler(params, make_prompts(list(range(6))), keys)), rollout)
    assert widths == [2]  # of 3, for the last stretch


def test_no_shorter_cache_waits_beside_a_longer_one(params: Params, monkeypatch):
    shorter, proceed, make_room = [], sampling_sampler._proceed, sampling_sampler._make_room

    def shapes(cache):
        return {leaf.shape for leaf in jax.tree.leaves(cache) if leaf.ndim > 3}

    def spy_on_room(sampler, number, width, prefix, places, cache):
        shorter.append(shapes(cache))
        return make_room(sampler, number, width, prefix, places, cache)

    def spy(*arguments):
        assert not shorter[-1] & {array.shape for array in jax.live_arrays()}
        found, cache = proceed(*arguments), arguments[4][2]
        donated = [leaf.is_deleted() for leaf in jax.tree.leaves(cache) if leaf.ndim > 3]
        assert donated and all(donated)  # nor one beside its own successor
        return found

    monkeypatch.setattr(sampling_sampler, "_make_room", spy_on_room)
    monkeypatch.setattr(sampling_sampler, "_proceed", spy)
    keys = keys_lib.sample_keys(0, "grpo", 7, np.array([10, 11, 12, 13, 14, 15]), 3)
    sampler = dataclasses.replace(SAMPLER, cache_lengths=(5, 7), row_blocks=1)
    sampler(params, make_prompts(list(range(6))), keys)
    assert len(shorter) == 2 and all(shorter)


@pytest.mark.parametrize(("stacked", "rows"), [(True, 6), (False, 6), (False, 1)])
def test_a_growing_cache_changes_nothing_and_is_never_copied(
    params: Params, rollout: Rollout, stacked: bool, rows: int, monkeypatch: pytest.MonkeyPatch
):
    """In the compiled loops nothing of the size of a cache, of the prefix or of the head is made
    anew, but the cache itself by writing one slot in place."""
    model = dataclasses.replace(MODEL, most_unstacked=0 if stacked else 10**6)
    monkeypatch.setattr(decoding, "_MOST_TRANSPOSED", 0 if stacked else 10**6)
    sampler = dataclasses.replace(SAMPLER, model=model, cache_lengths=(3, 6))
    keys = keys_lib.sample_keys(0, "grpo", 7, np.array([10, 11, 12, 13, 14, 15])[:rows], 3)
    prompts = jax.tree.map(jnp.asarray, make_prompts(list(range(rows))))
    compiled = sampling_sampler._sample.lower(sampler, params, prompts, keys).compile()
    first = jax.tree.map(lambda leaf: leaf[:rows], dataclasses.replace(rollout, num_steps=None))
    found = jax.device_get(compiled(params, prompts, keys))
    assert_same(found, dataclasses.replace(first, num_steps=found.num_steps))
    layers, heads, width = 2, 2, 16
    if stacked:
        large = {f"f32[{layers},{rows},{heads},48,{width}]"}
        caches = [f"f32[{layers},{rows},{heads},3,{stop},{width}]" for stop in sampler.stops]
    else:
        large = {f"f32[{rows},{heads},48,{width}]" if rows > 1 else f"f32[{heads},48,{width}]"}
        caches = [f"f32[{rows * heads * 3},{stop},{width}]" for stop in sampler.stops]
    vocabulary, features = MODEL.head(params).shape
    transposed = f"f32[{features},{vocabulary}]{{1,0}}"  # a small head: once, before the loop
    large.add(f"f32[{vocabulary},{features}]{{1,0}}" if stacked else transposed)
    bodies = loop_bodies(compiled.as_text(), caches)
    assert len(bodies) == (2 if stacked else 1) * 3  # over steps, and over layers within
    for shape in large | set(caches):
        made = [line for body in bodies for line in body if f" = {shape}" in line]
        assert made, shape
        for line in made:
            assert re.search(
                r" (get-tuple-element|parameter|bitcast)\(|dynamic-update-slice", line
            ), line


def assert_same(found: Rollout, expected: Rollout) -> None:
    """The same tokens; sums over another number of masked slots may round differently."""
    for name in ("token_ids", "mask", "length", "num_steps"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("log_probs", "entropies"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-6, atol=2e-6
        )


def loop_bodies(text: str, shapes: list[str]) -> list[list[str]]:
    """The lines of every computation that is the body of a loop over arrays of these shapes."""
    computations = {
        match[1]: match[0].splitlines()
        for match in re.finditer(r"^%?([\w.-]+) \(.*?^}", text, re.MULTILINE | re.DOTALL)
    }
    names = re.findall(r"while\(.*body=%?([\w.-]+)", text)
    bodies = [computations[name] for name in names]
    return [body for body in bodies if any(shape in line for shape in shapes for line in body)]
