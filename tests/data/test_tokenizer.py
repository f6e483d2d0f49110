import json
import pickle
import shutil
import unicodedata

import pytest
import tokenizers
from tiny_set import corpus, tokenizer

from jaxqa.data.tokenizer import (
    MIN_VOCAB_SIZE,
    SPECIAL_TOKENS,
    build_demo_tokenizer,
    load_tokenizer,
)
from jaxqa.errors import UserError

IMAGE = {"type": "image"}
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ODD_TEXTS = (
    "It's 3.42, isn't it?  \n\n\tTwo  blanks\r\n",
    "naïve Å e\u0301 — “quoted” 日本語 🙂🙂",
    "<think> a </think><answer> 12.50 </answer>",
    '{"rating": 4.00}\n\n  }',
    "",
)


def text(content):
    return {"type": "text", "text": content}


@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        (
            [{"role": "user", "content": [IMAGE, text("How good?")]}],
            {},
            f"{DEFAULT_SYSTEM}<|im_start|>user\n{VISION}How good?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            [{"role": "system", "content": " Be\nbrief. "}, {"role": "user", "content": "Hi\n"}],
            {"add_generation_prompt": False},
            "<|im_start|>system\n Be\nbrief. <|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n",
        ),
        (
            [
                {"role": "system", "content": [text("S")]},
                {"role": "user", "content": [text("A: "), IMAGE, text("B: "), IMAGE, text("?")]},
                {"role": "assistant", "content": "<think> x </think>"},
                {"role": "user", "content": [{"image": "a.png"}, {"image_url": "b"}]},
            ],
            {"add_vision_id": True},
            f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA: Picture 1: {VISION}B: "
            f"Picture 2: {VISION}?<|im_end|>\n<|im_start|>assistant\n<think> x </think><|im_end|>\n"
            f"<|im_start|>user\nPicture 3: {VISION}Picture 4: {VISION}<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            [{"role": "user", "content": [{"type": "video"}, IMAGE, text("{{ x }} {% y %}")]}],
            {"add_generation_prompt": False, "add_vision_id": True},
            f"{DEFAULT_SYSTEM}<|im_start|>user\nVideo 1: <|vision_start|><|video_pad|>"
            f"<|vision_end|>Picture 1: {VISION}{{{{ x }}}} {{% y %}}<|im_end|>\n",
        ),
        (
            [{"role": "system", "content": ""}, {"role": "user", "content": [IMAGE]}],
            {},
            f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{VISION}<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_chat_is_rendered_in_qwens_format(messages, options, expected):
    assert tokenizer().render_chat(messages, **options) == expected


@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_decoding_gives_the_text_back(odd):
    ids = tokenizer().encode(odd)
    assert tokenizer().decode(ids) == unicodedata.normalize("NFC", odd)


def test_digits_are_single_tokens():
    ids = tokenizer().encode("3.42 1024")
    assert [tokenizer().decode([i]) for i in ids] == ["3", ".", "4", "2", " ", *"1024"]


def test_special_tokens_follow_the_learned_ones_and_have_their_roles():
    tok = tokenizer()
    ids = [tok.token_id(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(tok.vocab_size - len(SPECIAL_TOKENS), tok.vocab_size))
    for token, i in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tok.encode(f"a{token}b") == [*tok.encode("a"), i, *tok.encode("b")]
    assert tok.eos_token_id == tok.token_id("<|im_end|>")
    assert tok.pad_token_id == tok.token_id("<|endoftext|>")
    assert tok.stop_token_ids == (tok.eos_token_id, tok.pad_token_id)
    assert tok.decode(tok.encode("a<|im_end|>")) == "a"
    assert tok.decode(tok.encode("a<|im_end|>"), skip_special_tokens=False) == "a<|im_end|>"


def test_training_learns_the_corpus_and_never_a_special_token():
    learned = build_demo_tokenizer(["<|im_start|>sharpness sharpness<|im_end|>"] * 9, 300)
    assert len(learned.encode("sharpness")) == 1
    assert learned.encode("<|im_start|>") == [learned.token_id("<|im_start|>")]
    names = learned._backend.get_vocab()
    assert not any("im_" in name for name in names if name not in SPECIAL_TOKENS)


def test_training_is_deterministic(tmp_path):
    for name in ("a", "b"):
        build_demo_tokenizer(iter(corpus()), 420).save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer.json" in files and "chat_template.jinja" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_vocabulary_is_bounded():
    assert build_demo_tokenizer(corpus(), MIN_VOCAB_SIZE + 5).vocab_size == MIN_VOCAB_SIZE + 5
    assert build_demo_tokenizer(["a"], 10_000).vocab_size == MIN_VOCAB_SIZE
    with pytest.raises(ValueError, match="at least 270"):
        build_demo_tokenizer(corpus(), MIN_VOCAB_SIZE - 1)


def test_saved_directory_loads_in_transformers_and_the_tokenizers_library(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer().save(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    raw = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for odd in (*ODD_TEXTS, *corpus(), "x<|im_end|>\n<|vision_start|>"):
        expected = tokenizer().encode(odd)
        assert auto(odd)["input_ids"] == expected
        assert raw.encode(odd, add_special_tokens=False).ids == expected
    assert auto.eos_token_id == tokenizer().eos_token_id
    assert auto.pad_token_id == tokenizer().pad_token_id
    messages = [{"role": "user", "content": [IMAGE, text("How good?")]}]
    rendered = auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == tokenizer().render_chat(messages)


@pytest.mark.torch
def test_saved_directory_makes_a_processor(tmp_path):
    pytest.importorskip("torchvision", reason="transformers' video processor needs it")
    from transformers import AutoProcessor

    tokenizer().save(tmp_path)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.image_token_id == tokenizer().image_token_id
    messages = [{"role": "user", "content": [IMAGE, text("How good?")]}]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert rendered == tokenizer().render_chat(messages)


def test_loading_and_pickling_change_nothing(tmp_path):
    tokenizer().save(tmp_path / "a")
    loaded = pickle.loads(pickle.dumps(load_tokenizer(tmp_path / "a")))
    loaded.save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert loaded.vocab_size == tokenizer().vocab_size
    for odd in ODD_TEXTS:
        assert loaded.encode(odd) == tokenizer().encode(odd)


def test_the_processors_template_goes_before_the_tokenizers(tmp_path):
    """The Hub's Qwen2.5-VL directories keep it in chat_template.json."""
    tokenizer().save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"chat_template": "tokenizer's"}
    path.write_text(json.dumps(settings))
    turns = [{"role": "user", "content": "Hi"}]
    assert load_tokenizer(tmp_path).render_chat(turns) == "tokenizer's"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "processor\'s"}')
    assert load_tokenizer(tmp_path).render_chat(turns) == "processor's"
    (tmp_path / "chat_template.json").write_text("[1]")
    with pytest.raises(UserError, match=r"chat_template\.json.*expected JSON"):
        load_tokenizer(tmp_path)


def test_bad_directories_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "nowhere")
    whole = tmp_path / "whole"
    tokenizer().save(whole)

    def damaged(name, change):
        directory = tmp_path / name
        shutil.copytree(whole, directory)
        change(directory)
        return directory

    no_template = damaged("plain", lambda d: (d / "chat_template.jinja").unlink())
    with pytest.raises(UserError, match="no chat template"):
        load_tokenizer(no_template)
    cut = damaged("cut", lambda d: (d / "tokenizer.json").write_text('{"version": "1.0", "mod'))
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        load_tokenizer(cut)

    def rename_token(directory):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            path = directory / name
            path.write_text(path.read_text().replace("<|image_pad|>", "<|picture_pad|>"))

    with pytest.raises(UserError, match=r"lacks <\|image_pad\|>"):
        load_tokenizer(damaged("renamed", rename_token))
