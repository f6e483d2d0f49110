"""Tokenizers: a real Qwen2.5-VL one from its directory, or a small one trained for the demo.

Both are Hugging Face directories and load through `load_tokenizer`; the demo's has the same
special tokens, pre-tokenisation and chat format, only a smaller vocabulary.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from jaxqa.errors import UserError

Message = Mapping[str, Any]
"""`{"role": ..., "content": str | [{"type": "image"} | {"type": "text", "text": ...}, ...]}`."""

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2.5-VL's special tokens, in the order of their ids (after the learned vocabulary)."""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)

# Qwen2's split (transformers: tokenization_qwen2): contractions, words with one leading sign or
# blank, single digits, runs of signs, line ends, blanks.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to token ids and back, and chat messages to text.

    Attributes:
      vocab_size: number of ids; the model's table may be larger.
      eos_token_id: `<|im_end|>`, which ends an assistant's turn and is supervised.
      pad_token_id: `<|endoftext|>`.
      stop_token_ids: the ids at which sampling stops, as Qwen's generation config lists them.
      image_token_id: `<|image_pad|>`, one per merged vision token.
    """

    def __init__(self, backend: Any, *, files: Mapping[str, bytes]):
        """Wrap a fast `transformers` tokenizer; use `load_tokenizer` or `build_demo_tokenizer`.

        Args:
          backend: the `transformers` tokenizer, with a chat template.
          files: name -> content of the directory it came from, which `save` writes back as is.
        """
        self._backend = backend
        self._files = dict(files)
        ids = backend.convert_tokens_to_ids(list(SPECIAL_TOKENS))
        self._special = dict(zip(SPECIAL_TOKENS, ids, strict=True))
        self.vocab_size: int = len(backend)
        self.eos_token_id = self._special["<|im_end|>"]
        self.pad_token_id = self._special["<|endoftext|>"]
        self.stop_token_ids = (self.eos_token_id, self.pad_token_id)
        self.image_token_id = self._special["<|image_pad|>"]
        self.video_token_id = self._special["<|video_pad|>"]
        self.vision_start_token_id = self._special["<|vision_start|>"]
        self.vision_end_token_id = self._special["<|vision_end|>"]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it become their single id."""
        return self._backend(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`, byte for byte: blanks are not cleaned up."""
        return self._backend.decode(
            list(map(int, ids)),
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )

    def token_id(self, token: str) -> int:
        """Id of one of `SPECIAL_TOKENS`."""
        return self._special[token]

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        add_vision_id: bool = False,
    ) -> str:
        """Chat text of `messages`, with one `<|image_pad|>` for each image.

        Args:
          messages: system (optional), user and assistant turns, oldest first.
          add_generation_prompt: end with the opening of an assistant's turn.
          add_vision_id: write `Picture N: ` before the images.
        """
        return self._backend.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            add_vision_id=add_vision_id,
        )

    def save(self, directory: Path | str) -> None:
        """Write the tokenizer's files into `directory`, byte for byte as they were read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (directory / name).write_bytes(content)


def load_tokenizer(directory: Path | str) -> Tokenizer:
    """Load the tokenizer and chat template of a Hugging Face Qwen2.5-VL directory.

    The template is the processor's (`chat_template.jinja`, else `chat_template.json`), else the
    one in `tokenizer_config.json`. No code from the directory is run.

    Raises:
      UserError: no tokenizer there, it cannot be read, it lacks one of Qwen2.5-VL's special
        tokens, or there is no chat template.
    """
    from transformers import AutoTokenizer  # slow to import; only needed here

    directory = Path(directory)
    files = {n: (directory / n).read_bytes() for n in _TOKENIZER_FILES if (directory / n).is_file()}
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files.keys():
        raise UserError(
            f"{directory} holds no tokenizer: expected tokenizer.json, or vocab.json and "
            "merges.txt; give a Hugging Face Qwen2.5-VL directory"
        )
    try:
        backend = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"cannot read the tokenizer in {directory}: {error}") from error
    backend.chat_template = _chat_template(directory, files) or backend.chat_template
    _check_backend(directory, backend)
    return Tokenizer(backend, files=files)


def build_demo_tokenizer(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on `corpus`, deterministic for the same texts in the same order.

    Args:
      corpus: texts like those to be encoded; special tokens in them are left out. Any other text
        can be encoded too, byte by byte.
      vocab_size: most ids to make, special tokens included; a small corpus gives fewer.

    Raises:
      ValueError: `vocab_size` leaves no room for the 256 bytes and the special tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size is {vocab_size}; expected at least {MIN_VOCAB_SIZE}")
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    between = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    tokenizer.train_from_iterator((between.sub("\n", text) for text in corpus), trainer)
    # Added after training, so that the special ids follow the learned ones, as in Qwen.
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    with tempfile.TemporaryDirectory() as directory:
        _write_directory(Path(directory), tokenizer)
        return load_tokenizer(directory)


def _write_directory(directory: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Write what both generations of `transformers` need to load a Qwen2.5-VL tokenizer."""
    tokenizer.save(str(directory / "tokenizer.json"))
    tokenizer.model.save(str(directory))  # vocab.json and merges.txt
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen2_5_VLProcessor",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    template = resources.files("jaxqa.data").joinpath("chat_template.jinja").read_text()
    (directory / "chat_template.jinja").write_text(template)


def _chat_template(directory: Path, files: Mapping[str, bytes]) -> str | None:
    """The processor's chat template, which goes before the tokenizer's own."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    if "chat_template.json" in files:
        try:
            return json.loads(files["chat_template.json"])["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{directory / 'chat_template.json'}: expected JSON with a key "
                f"'chat_template', found {error!r}; mend or remove the file"
            ) from error
    return None


def _check_backend(directory: Path, backend: Any) -> None:
    """Refuse a tokenizer that is not Qwen2.5-VL's or has no chat template."""
    known = backend.get_vocab()
    if missing := [token for token in SPECIAL_TOKENS if token not in known]:
        raise UserError(
            f"the tokenizer in {directory} lacks {', '.join(missing)}; expected Qwen2.5-VL's "
            "special tokens: give a Qwen2.5-VL directory"
        )
    if not backend.chat_template:
        raise UserError(
            f"{directory} has no chat template; expected chat_template.jinja, "
            "chat_template.json or an entry in tokenizer_config.json"
        )
