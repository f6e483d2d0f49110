"""Text to CLIP's and SigLIP's token rows: a released tokenizer, or a small one for the demo."""

import re
import string
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from jaxqa.errors import UserError
from jaxqa.files import read_json, write_json
from jaxqa.models.clip.config import ClipConfig
from jaxqa.typing import Int

START, END = "<|startoftext|>", "<|endoftext|>"
SIGLIP_END = "</s>"

MIN_VOCAB_SIZE = 2 * 256 + 2
"""Every byte, inside a word and at its end, and the two special tokens."""

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
)


# CLIP's words (transformers: tokenization_clip).
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipTokenizer:
    """Texts to rows of token ids.

    Attributes:
        room: tokens of text in a row, beside the special ones.
        length: tokens of a row, `max_position_embeddings`.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        *,
        start: int | None,
        end: int,
        length: int,
        files: Mapping[str, bytes],
    ):
        """Use `load_tokenizer` or `build_demo_tokenizer`.

        Args:
            encode: text to ids without special tokens.
            start: id before the text, if there is one.
            end: id after the text, and padding.
            length: tokens of a row.
            files: name -> content of the directory it came from.
        """
        self.encode = encode
        self.length = length
        self._start = [] if start is None else [start]
        self._end = end
        self._files = dict(files)
        self.room = length - 1 - len(self._start)

    def row(self, ids: Sequence[int]) -> Int[np.ndarray, " T"]:
        """One row: special tokens around at most `room` ids, the rest padded with the end token."""
        row = np.full((self.length,), self._end, np.int32)
        used = [*self._start, *ids[: self.room]]
        row[: len(used)] = used
        return row

    def save(self, directory: Path | str) -> None:
        """Write the tokenizer's files into an existing `directory`, byte for byte."""
        for name, content in self._files.items():
            (Path(directory) / name).write_bytes(content)


def load_tokenizer(directory: Path | str, config: ClipConfig) -> ClipTokenizer:
    """Load the tokenizer of a Hugging Face directory; no code from the directory is run.

    Raises:
        UserError: no tokenizer there, it cannot be read, or it does not fit the text tower.
    """
    directory = Path(directory)
    files = {n: (directory / n).read_bytes() for n in _FILES if (directory / n).is_file()}
    load = _load_siglip if config.is_siglip else _load_clip
    encode, start, end = load(directory, files)
    if config.text is None:
        raise UserError(f"{directory} holds an image tower only; expected a text tower as well")
    if max(end, -1 if start is None else start) >= config.text.vocab_size:
        raise UserError(
            f"the tokenizer in {directory} has ids up to {end} and more, expected fewer than the "
            f"text tower's vocab_size ({config.text.vocab_size})"
        )
    return ClipTokenizer(
        encode, start=start, end=end, length=config.text.max_position_embeddings, files=files
    )


Loaded = tuple[Callable[[str], list[int]], int | None, int]


def _load_clip(directory: Path, files: Mapping[str, bytes]) -> Loaded:
    from transformers import AutoTokenizer  # slow to import; only needed here

    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files.keys():
        raise UserError(
            f"{directory} holds no tokenizer: expected tokenizer.json, or vocab.json and merges.txt"
        )
    try:
        backend: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"cannot read the tokenizer in {directory}: {error}") from error
    known = backend.get_vocab()
    if START not in known or END not in known:
        raise UserError(f"the tokenizer in {directory} lacks {START} or {END}; give CLIP's own")

    def encode(text: str) -> list[int]:
        # Quiet about long texts: `row` cuts them.
        return backend(text, add_special_tokens=False, verbose=False)["input_ids"]

    return encode, known[START], known[END]


def _load_siglip(directory: Path, files: Mapping[str, bytes]) -> Loaded:
    if "tokenizer.json" not in files:
        raise UserError(
            f"{directory} has no tokenizer.json, which SigLIP's texts need; download it with the "
            "model (spiece.model alone is not read)"
        )
    if "model" not in read_json(directory / "tokenizer.json"):
        raise UserError(
            f"{directory / 'tokenizer.json'}: expected a key 'model'; download it again"
        )
    backend = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    end = backend.token_to_id(SIGLIP_END)
    if end is None:
        raise UserError(f"the tokenizer in {directory} lacks {SIGLIP_END}; give SigLIP's own")

    def encode(text: str) -> list[int]:
        return backend.encode(canonical(text), add_special_tokens=False).ids

    return encode, None, end


def canonical(text: str) -> str:
    """SigLIP's form of a text: lower case, no punctuation, single blanks."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


def build_demo_tokenizer(corpus: Iterable[str], config: ClipConfig) -> ClipTokenizer:
    """Train CLIP's kind of byte-pair encoding on `corpus`, deterministic for the same texts.

    The end token has id 1, so the text tower's `eos_token_id` must be 1.

    Raises:
        ValueError: the text tower's vocabulary is too small, or its end token is another.
    """
    text = config.text
    if text is None or text.vocab_size < MIN_VOCAB_SIZE or text.eos_token_id != 1:
        raise ValueError(
            f"expected a text tower with vocab_size of at least {MIN_VOCAB_SIZE} and "
            f"eos_token_id 1, found {text}"
        )
    trained = tokenizers.Tokenizer(BPE(unk_token=END, end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=text.vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
    )
    trained.train_from_iterator(corpus, trainer)
    with tempfile.TemporaryDirectory() as directory:
        trained.model.save(directory)  # vocab.json and merges.txt
        values = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": text.max_position_embeddings,
        }
        write_json(Path(directory) / "tokenizer_config.json", values)
        return load_tokenizer(directory, config)
