import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from tiny_set import (
    BUCKETS,
    SIZES,
    TEMPLATE,
    encoder,
    model_config,
    source,
    tokenizer,
    write_examples,
)

from jaxqa.data import encoding, prompts
from jaxqa.data.batching import BatchBuilder, Buckets, SftBatch, pad_completions
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.records import TASKS, Example
from jaxqa.data.scales import ScoreScale
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.preprocess import ImageConfig, smart_resize
from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES


def builder_of(examples, **options):
    defaults = dict(supervised=False, on_bad_image="raise", buckets=BUCKETS, cache_bytes=0)
    return BatchBuilder([source(examples)], encoder=encoder(), **(defaults | options))


def build(builder, rows, *, bucket=1, completion_length=32, valid=None):
    valid = np.ones(len(rows), bool) if valid is None else np.array(valid)
    return builder.build(
        np.array(rows), valid=valid, bucket=bucket, completion_length=completion_length
    )


def expected_ids(template, example, size):
    """What HF's processor does: repeat the placeholder in the text, then tokenise."""
    limits = encoder().image_config
    height, width = smart_resize(*size, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    text = tokenizer().render_chat(template.messages(example))
    pads = "<|image_pad|>" * (height // 28 * (width // 28))
    return tokenizer().encode(text.replace("<|image_pad|>", pads))


@pytest.mark.parametrize("name", ["concise", "q_insight"])
def test_prompt_rows_hold_what_hfs_processor_would_tokenise(tmp_path, name):
    template = prompts.get_template(name)
    for example, size in zip(write_examples(tmp_path, 5), SIZES, strict=True):
        row = encoding.build_prompt_row(example, template, encoder())
        assert row.token_ids.tolist() == expected_ids(template, example, size)


@pytest.mark.torch
@pytest.mark.parametrize("sizes", [[(60, 140)], [(30, 200), (113, 57)], [(112, 112)] * 3])
def test_prompt_rows_hold_what_hfs_processor_makes(tmp_path, sizes):
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class StillImages(Qwen2_5_VLProcessor):
        """Without the video processor, which needs torchvision."""

        def check_argument_for_proper_class(self, argument_name, argument):
            pass

    tokenizer().save(tmp_path)
    limits = encoder().image_config
    processor = StillImages(
        image_processor=Qwen2VLImageProcessorPil(
            min_pixels=limits.min_pixels, max_pixels=limits.max_pixels
        ),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path),
        video_processor=None,
        chat_template=(tmp_path / "chat_template.jinja").read_text(),
    )
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    content = [
        part for _ in sizes for part in ({"type": "text", "text": "3.5 "}, {"type": "image"})
    ]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(text=[text], images=images)["input_ids"][0]
    assert encoder().row(messages, images).token_ids.tolist() == expected


def test_measuring_from_the_header_agrees_with_the_row(tmp_path):
    sizes = [tuple(s) for s in np.random.default_rng(0).integers(20, 500, (12, 2)).tolist()]
    sizes += [(1, 1), (1, 150), (300, 28)]
    for example in write_examples(tmp_path, len(sizes), sizes=sizes):
        row = encoding.build_prompt_row(example, TEMPLATE, encoder())
        measured = encoding.measure_prompt(example, TEMPLATE, encoder())
        assert measured == (row.length, row.num_windows)


def test_measuring_a_rotated_image_agrees_with_the_row():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (300, 90)).save(file, "JPEG", exif=exif)
    example = Example(example_id=1, image=file.getvalue(), score=1.0, dataset="d", task="quality")
    row = encoding.build_prompt_row(example, TEMPLATE, encoder())
    assert row.patch_positions[..., 0].max() > row.patch_positions[..., 1].max()
    assert encoding.measure_prompt(example, TEMPLATE, encoder()) == (row.length, row.num_windows)


def test_several_images_expand_in_order():
    content = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}]
    images = [np.zeros((56, 84, 3), np.uint8), np.full((112, 28, 3), 255, np.uint8)]
    row = encoder().row([{"role": "user", "content": content}], images)
    is_image = row.token_ids == tokenizer().image_token_id
    assert np.flatnonzero(np.diff(is_image)).size == 4
    assert is_image.sum() == 6 + 4
    with pytest.raises(UserError, match="2 image placeholders and 1 images"):
        encoder().row([{"role": "user", "content": content}], images[:1])


def test_a_tokenizer_of_another_model_is_refused():
    config = dataclasses.replace(model_config(tokenizer()), image_token_id=3)
    with pytest.raises(UserError, match="image_token_id is"):
        PromptEncoder(tokenizer(), config=config, image_config=ImageConfig())


def test_a_prompt_takes_the_first_bucket_that_holds_tokens_and_windows():
    buckets = Buckets(prompt_lengths=(10, 20, 20), window_counts=(1, 1, 4))
    assert buckets.index(10, 1) == 0
    assert buckets.index(11, 1) == 1
    assert buckets.index(3, 2) == 2
    assert buckets.index(20, 4) == 2
    with pytest.raises(UserError, match="a.png has 21 tokens and 1 image windows.*holds 20 and 4"):
        buckets.index(21, 1, name="a.png")
    with pytest.raises(UserError, match="never truncated"):
        buckets.index(1, 5)


def test_completion_buckets():
    assert [BUCKETS.completion_length(n) for n in (1, 16, 17, 64)] == [16, 16, 32, 64]
    with pytest.raises(UserError, match="65 tokens"):
        BUCKETS.completion_length(65)


@pytest.mark.parametrize(
    ("lengths", "windows", "completions"),
    [
        ((), (), ()),
        ((4, 8), (1,), ()),
        ((8, 4), (1, 1), ()),
        ((0,), (1,), ()),
        ((4,), (1,), (3, 2)),
    ],
)
def test_wrong_buckets_are_refused(lengths, windows, completions):
    with pytest.raises(ValueError, match="expected"):
        Buckets(prompt_lengths=lengths, window_counts=windows, completion_lengths=completions)


def test_a_prompt_longer_than_the_largest_bucket_is_refused_by_name(tmp_path):
    examples = write_examples(tmp_path, 4)
    small = Buckets(prompt_lengths=(40,), window_counts=(9,))
    with pytest.raises(UserError, match=r"png has \d+ tokens"):
        builder_of(examples, buckets=small, on_bad_image="mask").measure()


def test_a_batch_holds_rows_labels_pools_and_ids(tmp_path):
    examples = write_examples(tmp_path, 5)
    examples[4] = dataclasses.replace(examples[4], score=None)
    batch = build(builder_of(examples), [3, 0, 4])
    assert batch.prompts.token_ids.shape == (3, 96)
    assert batch.prompts.patches.shape == (3, 2, 64, 588)
    assert batch.example_ids.tolist() == [examples[i].example_id for i in (3, 0, 4)]
    np.testing.assert_array_equal(batch.labels, np.array([1.3, 1.0, np.nan], np.float32))
    assert batch.pools.tolist() == [0, 0, 1]  # data sets "a", "a", "b"
    assert batch.valid.tolist() == [True] * 3 and batch.errors == (None,) * 3
    for place, number in enumerate((3, 0, 4)):
        row = encoding.build_prompt_row(examples[number], TEMPLATE, encoder())
        mask = batch.prompts.mask[place]
        np.testing.assert_array_equal(batch.prompts.token_ids[place][mask], row.token_ids)
        np.testing.assert_array_equal(batch.prompts.patches[place][: row.num_windows], row.patches)
    pads = batch.prompts.token_ids[~batch.prompts.mask]
    assert (pads == tokenizer().pad_token_id).all()


def test_supervised_batches_hold_the_target_with_its_stop_token(tmp_path):
    examples = write_examples(tmp_path, 4)
    batch = build(builder_of(examples, supervised=True), [2, 1], valid=[True, False])
    assert isinstance(batch, SftBatch)
    assert batch.completion_ids.shape == batch.completion_mask.shape == (2, 1, 32)
    example = examples[2]
    assert example.rationale is not None and example.score is not None
    target = TEMPLATE.target(example, example.score)
    kept = batch.completion_ids[0, 0][batch.completion_mask[0, 0]]
    assert kept.tolist() == tokenizer().encode(target)
    assert kept[-1] == tokenizer().eos_token_id
    assert not batch.completion_mask[1].any()  # a padding row teaches nothing


def test_measuring_finds_examples_without_target(tmp_path):
    examples = write_examples(tmp_path, 3)
    buckets, lengths = builder_of(examples, supervised=True).measure()
    expected = [
        len(encoding.encode_target(example, source(examples), tokenizer())) for example in examples
    ]
    assert buckets.tolist() == [0, 0, 1] and lengths.tolist() == expected
    for field in ("score", "rationale"):
        broken = [examples[0], dataclasses.replace(examples[1], **{field: None})]
        with pytest.raises(UserError, match=f"1.png has no {field}"):
            builder_of(broken, supervised=True).measure()
        builder_of(broken).measure()


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "wide"])
def test_bad_images_are_named_or_masked(tmp_path, damage):
    examples = write_examples(tmp_path, 3)
    path = tmp_path / "1.png"
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no image")
    elif damage == "cut":  # its header is good
        path.write_bytes(path.read_bytes()[:-400])
    else:
        Image.new("RGB", (30_000, 10)).save(path)
    with pytest.raises(UserError, match=r"1\.png: "):
        strict = builder_of(examples)
        strict.measure()
        build(strict, [0, 1, 2])
    masking = builder_of(examples, on_bad_image="mask", supervised=True)
    assert masking.measure()[0].tolist() == [0, 0, 1]
    batch = build(masking, [0, 1, 2])
    assert isinstance(batch, SftBatch)
    assert batch.valid.tolist() == [True, False, True]
    assert batch.completion_mask.any(axis=(1, 2)).tolist() == [True, False, True]
    assert batch.errors[0] is None and "1.png: " in str(batch.errors[1])
    assert batch.example_ids[1] == examples[1].example_id


def test_a_data_set_without_any_image_is_refused(tmp_path):
    examples = write_examples(tmp_path, 3)
    for example in examples:
        example.image.unlink()
    with pytest.raises(UserError, match="none of 3 images can be read.*0.png"):
        builder_of(examples, on_bad_image="mask").measure()


def test_the_cache_changes_nothing_and_keeps_its_bound(tmp_path):
    examples = write_examples(tmp_path, 4)
    fresh = build(builder_of(examples), [0, 1, 2])
    one_window = 64 * 588
    cached = builder_of(examples, cache_bytes=one_window)
    build(cached, [0, 1, 2])
    (tmp_path / "0.png").unlink()  # held; the others are read again
    again = build(cached, [0, 1, 2])
    np.testing.assert_array_equal(again.prompts.patches, fresh.prompts.patches)
    np.testing.assert_array_equal(again.prompts.positions, fresh.prompts.positions)
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png"):
        build(cached, [1])


def test_padding_of_completions():
    ids, mask = pad_completions([[1, 2, 3], [], [4]], length=4, pad_token_id=9)
    assert ids.tolist() == [[1, 2, 3, 9], [9] * 4, [4, 9, 9, 9]]
    assert mask.sum(1).tolist() == [3, 0, 1] and mask[0].tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="expected at most 2"):
        pad_completions([[1, 2, 3]], length=2, pad_token_id=9)


def asked(examples, name, template, **options):
    return source(examples, name, template=prompts.get_template(template), **options)


def several_tasks(directory):
    """Quality from 0 to 100 turned round, degradation, alignment and a comparison."""
    images = write_examples(directory, 7)
    labels = {"distortion_class": "blur", "severity": "serious"}
    degraded = [dataclasses.replace(e, score=None, answer_labels=labels) for e in images[:2]]
    aligned = [dataclasses.replace(e, prompt=f"a {w}") for e, w in zip(images, "cat", strict=False)]
    extra = (images[1].image, images[2].image)
    pair = dataclasses.replace(
        images[0], score=None, extra_images=extra, answer_labels={"choice": "Similar"}
    )
    scale = ScoreScale(worst=5.0, best=1.0, low=0.0, high=100.0)
    return [
        asked(images[:3], "quality", "concise_percent", scale=scale),
        asked(degraded, "degradation", "concise_degradation"),
        asked(aligned, "alignment", "concise_alignment"),
        asked([pair], "pairs", "concise_comparison"),
    ]


WIDE = Buckets(prompt_lengths=(200,), window_counts=(8,), completion_lengths=(64,))


def test_rows_of_several_tasks_know_what_they_ask(tmp_path):
    sources = several_tasks(tmp_path)
    builder = BatchBuilder(
        sources, encoder=encoder(), buckets=WIDE, supervised=True, on_bad_image="raise"
    )
    builder.measure()
    batch = build(builder, range(9), bucket=0, completion_length=64)
    assert [TASKS[t] for t in batch.task] == [
        *["quality"] * 3,
        *["degradation"] * 2,
        *["alignment"] * 3,
        "comparison",
    ]
    wanted = [100.0, 97.5, 95.0, np.nan, np.nan, 1.0, 1.1, 1.2, np.nan]
    np.testing.assert_allclose(batch.labels, wanted, rtol=1e-6)
    assert batch.class_id.tolist() == [-1] * 3 + [DISTORTION_CLASSES.index("blur")] * 2 + [-1] * 4
    assert batch.severity_id.tolist() == [-1] * 3 + [SEVERITIES.index("serious")] * 2 + [-1] * 4
    assert batch.choice_id.tolist() == [-1] * 8 + [CHOICES.index("Similar")]
    for name in ("task", "class_id", "severity_id", "choice_id", "pools"):
        assert getattr(batch, name).dtype == np.int32
    pools = batch.pools.tolist()
    assert pools[0] != pools[1] == pools[2]  # data sets "a", "b", "b"
    assert len(set(pools[5:8])) == 3  # one text each
    assert not set(pools[:3]) & set(pools[5:8])
    for place, scored in ((0, "100.00"), (2, "95.00"), (6, "1.10"), (3, "serious"), (8, "Similar")):
        ids = batch.completion_ids[place, 0][batch.completion_mask[place, 0]]
        assert scored in tokenizer().decode(ids.tolist())


def test_prompts_of_several_images_hold_what_hfs_processor_would_tokenise(tmp_path):
    pairs = several_tasks(tmp_path)[-1]
    row = encoding.build_prompt_row(pairs.examples[0], pairs.template, encoder())
    pads = [(56, 56), (112, 84), (56, 140)]  # of the first three sizes
    text = tokenizer().render_chat(pairs.template.messages(pairs.examples[0]))
    for height, width in pads:
        text = text.replace("<|image_pad|>", "@" * (height // 28 * (width // 28)), 1)
    assert row.token_ids.tolist() == tokenizer().encode(text.replace("@", "<|image_pad|>"))
    assert encoding.measure_prompt(pairs.examples[0], pairs.template, encoder()) == (
        row.length,
        row.num_windows,
    )
    assert np.unique(row.window_image).tolist() == [0, 1, 2]
    example = pairs.examples[0]
    for number, image in enumerate((example.image, *example.extra_images)):  # each its own pixels
        alone = dataclasses.replace(example, image=image, extra_images=())
        single = encoding.build_prompt_row(alone, TEMPLATE, encoder())
        mine = row.patches[row.window_image == number]
        np.testing.assert_array_equal(mine, single.patches)


def test_an_unreadable_candidate_masks_its_row_by_name(tmp_path):
    pairs = several_tasks(tmp_path)[-1:]
    (tmp_path / "2.png").write_text("no image")
    options = {"encoder": encoder(), "buckets": WIDE, "supervised": False}
    with pytest.raises(UserError, match=r"2\.png: "):
        BatchBuilder(pairs, on_bad_image="raise", **options).measure()
    good = dataclasses.replace(
        pairs[0].examples[0], example_id=1, extra_images=(tmp_path / "0.png",) * 2
    )
    pairs = [dataclasses.replace(pairs[0], examples=[*pairs[0].examples, good])]
    builder = BatchBuilder(pairs, on_bad_image="mask", **options)
    assert builder.measure()[0].tolist() == [0, 0]
    batch = build(builder, [0, 1], bucket=0)
    assert batch.valid.tolist() == [False, True] and "2.png" in str(batch.errors[0])


def test_prompts_and_images_that_do_not_match_are_refused(tmp_path):
    images = write_examples(tmp_path, 2)
    for template in ("concise_comparison", "concise_alignment"):
        builder = BatchBuilder(
            [asked(images, "x", template)],
            encoder=encoder(),
            buckets=WIDE,
            supervised=False,
            on_bad_image="mask",
        )
        with pytest.raises(UserError, match="3 image placeholders and 1 images|has none"):
            builder.measure()
