"""Examples to batches of one static shape, on the host, in NumPy.

Prompts are padded to a bucket and completions to a completion bucket; nothing is ever truncated.
"""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from jaxqa.data import encoding
from jaxqa.data.encoding import PromptEncoder
from jaxqa.data.records import Example
from jaxqa.data.source import Source
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.inputs import PromptRow, Prompts, stack_rows
from jaxqa.rewards.labels import ABSENT, CHOICES, DISTORTION_CLASSES, SEVERITIES, TASKS
from jaxqa.typing import Bool, Int

OnBadImage = Literal["raise", "mask", "mask_late"]

_BLACK = np.zeros((28, 28, 3), np.uint8)

_ROW_FIELDS = (
    *("prompts", "example_ids", "labels", "pools", "task"),
    *("class_id", "severity_id", "choice_id", "valid"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buckets:
    """The static shapes: bucket i holds `prompt_lengths[i]` tokens and `window_counts[i]` windows.

    A prompt goes to the first bucket that holds it, so there are as many compiled shapes as
    buckets (times completion buckets, in supervised fine-tuning).

    Attributes:
        prompt_lengths: prompt tokens of each bucket, image tokens included; never falling.
        window_counts: vision windows of each bucket; never falling.
        completion_lengths: completion tokens, rising; a batch takes the first that holds it.
    """

    prompt_lengths: tuple[int, ...]
    window_counts: tuple[int, ...]
    completion_lengths: tuple[int, ...] = ()

    def __post_init__(self):
        if len(self.prompt_lengths) != len(self.window_counts) or not self.prompt_lengths:
            raise ValueError(
                f"prompt_lengths {self.prompt_lengths} and window_counts {self.window_counts}: "
                "expected one of each per bucket, and at least one bucket"
            )
        for name, sizes in dataclasses.asdict(self).items():
            if list(sizes) != sorted(sizes) or min(sizes, default=1) < 1:
                raise ValueError(f"{name} is {sizes}; expected positive sizes, smallest first")

    def index(self, prompt_length: int, num_windows: int, *, name: str = "the prompt") -> int:
        """Number of the first bucket that holds a prompt.

        Raises:
            UserError: none does.
        """
        for number, (length, windows) in enumerate(
            zip(self.prompt_lengths, self.window_counts, strict=True)
        ):
            if prompt_length <= length and num_windows <= windows:
                return number
        raise UserError(
            f"{name} has {prompt_length} tokens and {num_windows} image windows; the largest "
            f"bucket holds {self.prompt_lengths[-1]} and {self.window_counts[-1]}: prompts are "
            "never truncated, so use larger buckets or reduce max_pixels"
        )

    def completion_length(self, num_tokens: int) -> int:
        """Smallest completion bucket for `num_tokens`.

        Raises:
            UserError: none is large enough.
        """
        for length in self.completion_lengths:
            if num_tokens <= length:
                return length
        raise UserError(
            f"a completion has {num_tokens} tokens; the completion buckets are "
            f"{self.completion_lengths}: targets are never truncated, so add a larger bucket or "
            "shorten the rationale"
        )


# Pytrees, so that Grain's workers hand the arrays over in shared memory; it puts descriptors into
# the fields meanwhile, so they are not type-checked.
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=_ROW_FIELDS,
    meta_fields=["errors"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts of one bucket with their labels, on the host.

    Attributes:
        prompts: NumPy arrays, [B ...].
        example_ids: int64 [B]; a padding row repeats the batch's first one.
        labels: float32 [B], scores in the prompt's range; NaN where there is none or none is asked.
        pools: int32 [B], number of the row's pool among the loader's, in alphabetic order; ranking
            pairs are formed inside a pool, see `Source.pool`.
        task: int32 [B], place in `records.TASKS`.
        class_id: int32 [B], place in `labels.DISTORTION_CLASSES`; -1 where the task has none.
        severity_id: int32 [B], place in `labels.SEVERITIES`; -1 where the task has none.
        choice_id: int32 [B], place in `labels.CHOICES`; -1 where the task has none.
        valid: bool [B], False at padding rows and at rows whose image could not be read.
        errors: [B], what was wrong with a row's image, else None.
    """

    prompts: Prompts
    example_ids: np.ndarray
    labels: np.ndarray
    pools: np.ndarray
    task: np.ndarray
    class_id: np.ndarray
    severity_id: np.ndarray
    choice_id: np.ndarray
    valid: np.ndarray
    errors: tuple[str | None, ...]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(*_ROW_FIELDS, "completion_ids", "completion_mask"),
    meta_fields=["errors"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class SftBatch(PromptBatch):
    """Prompts with the completions to be learned.

    Attributes:
        completion_ids: int32 [B G T], padded on the right; G is 1.
        completion_mask: bool [B G T], True up to and including `<|im_end|>`; all False where the
            row is not valid.
    """

    completion_ids: np.ndarray
    completion_mask: np.ndarray


def pad_completions(
    completions: Sequence[Sequence[int] | Int[np.ndarray, " _"]], *, length: int, pad_token_id: int
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Token ids padded on the right to `length`, and the mask of the real ones.

    Raises:
        ValueError: a completion is longer than `length`.
    """
    lengths = np.array([len(completion) for completion in completions])
    if lengths.max(initial=0) > length:
        raise ValueError(f"a completion has {lengths.max()} tokens; expected at most {length}")
    ids = np.full((len(completions), length), pad_token_id, np.int32)
    for row, completion in zip(ids, completions, strict=True):
        row[: len(completion)] = completion
    return ids, np.arange(length)[None, :] < lengths[:, None]


class BatchBuilder:
    """Builds batches of the examples of some sources, in their order, one source after another.

    It decodes images, so it runs in the loader's workers.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        encoder: PromptEncoder,
        buckets: Buckets,
        supervised: bool,
        on_bad_image: OnBadImage,
        cache_bytes: int = 0,
    ):
        """Take the examples and how to turn them into rows.

        Args:
            sources: rows are numbers in the list of all their examples.
            encoder: how text and images become tokens and patches.
            buckets: the static shapes.
            supervised: build `SftBatch`es, with the examples' own answers.
            on_bad_image: "raise" a UserError that names the file, or "mask" the row: it becomes a
                small black image that is not valid, with the reason in `errors`. "mask_late"
                masks what only decoding finds, and raises for what `measure` finds.
            cache_bytes: pixels of prepared rows to keep in memory.
        """
        self.examples = [example for source in sources for example in source.examples]
        self._sources = [source for source in sources for _ in source.examples]
        self.encoder = encoder
        self.buckets = buckets
        self.supervised = supervised
        self.on_bad_image = on_bad_image
        pools = {s.pool(e) for s, e in zip(self._sources, self.examples, strict=True)}
        self._pools = {pool: number for number, pool in enumerate(sorted(pools))}
        self._targets: dict[int, np.ndarray] = {}
        self._rows: dict[int, PromptRow] = {}
        self._cache_left = cache_bytes

    def measure(self) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Bucket of each example's prompt, and tokens of its target (0 if not supervised).

        Reads the header of every image, and so finds what cannot be trained on before the start.

        Raises:
            UserError: a prompt or target fits no bucket, an example has no valid target, or an
                image cannot be read and `on_bad_image` is not "mask", or no image at all can be.
        """
        shapes = [self._shape(number) for number in range(len(self.examples))]
        if shapes and all(error for _, error in shapes):
            raise UserError(f"none of {len(shapes)} images can be read; the first: {shapes[0][1]}")
        return (
            np.array([bucket for bucket, _ in shapes], np.int64),
            np.array([self._target_length(row) for row in range(len(shapes))], np.int64),
        )

    def build(
        self,
        rows: Int[np.ndarray, " B"],
        *,
        valid: Bool[np.ndarray, " B"],
        bucket: int,
        completion_length: int,
    ) -> PromptBatch:
        """Batch of the examples `rows`, padded to `bucket` and `completion_length`."""
        built = [self._row(row) for row in rows.tolist()]
        errors = tuple(error for _, error in built)
        valid = valid & np.array([error is None for error in errors])
        batch = PromptBatch(
            prompts=stack_rows(
                [row for row, _ in built],
                prompt_length=self.buckets.prompt_lengths[bucket],
                num_windows=self.buckets.window_counts[bucket],
                pad_token_id=self.encoder.tokenizer.pad_token_id,
            ),
            **self._facts(rows.tolist()),
            valid=valid,
            errors=errors,
        )
        return self._supervise(batch, rows, completion_length) if self.supervised else batch

    def _supervise(self, batch: PromptBatch, rows: np.ndarray, completion_length: int) -> SftBatch:
        """`batch` with the targets of its rows."""
        ids, mask = pad_completions(
            [self._target(row) for row in rows.tolist()],
            length=completion_length,
            pad_token_id=self.encoder.tokenizer.pad_token_id,
        )
        mask = mask & batch.valid[:, None]
        return SftBatch(**vars(batch), completion_ids=ids[:, None], completion_mask=mask[:, None])

    def _facts(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """What is known of the examples besides their images."""
        pairs = [(self._sources[row], self.examples[row]) for row in rows]
        scores = [source.score(example) for source, example in pairs]
        labels = [_label_ids(source, example) for source, example in pairs]
        tasks = [TASKS.index(source.template.task) for source, _ in pairs]
        return {
            "example_ids": np.array([example.example_id for _, example in pairs], np.int64),
            "labels": np.array([np.nan if s is None else s for s in scores], np.float32),
            "pools": np.array([self._pools[s.pool(e)] for s, e in pairs], np.int32),
            "task": np.array(tasks, np.int32),
            **{name: np.array([ids[name] for ids in labels], np.int32) for name in _LABEL_NAMES},
        }

    def _shape(self, number: int) -> tuple[int, str | None]:
        """Bucket of an example, and what is wrong with its image."""
        example, template = self.examples[number], self._sources[number].template
        error = None
        try:
            size = encoding.measure_prompt(example, template, self.encoder)
        except UserError as reason:
            if self.on_bad_image != "mask":
                raise
            error = str(reason)
            black = [_BLACK.shape[:2]] * (1 + len(example.extra_images))
            size = self.encoder.measure(template.messages(example), black)
        return self.buckets.index(*size, name=encoding.image_name(example)), error

    def _row(self, number: int) -> tuple[PromptRow, str | None]:
        """Prompt of example `number`, or a stand-in and what is wrong with its image."""
        if number in self._rows:
            return self._rows[number], None
        example, template = self.examples[number], self._sources[number].template
        try:
            row = encoding.build_prompt_row(example, template, self.encoder)
        except UserError as reason:
            if self.on_bad_image == "raise":
                raise
            black = [_BLACK] * (1 + len(example.extra_images))
            return self.encoder.row(template.messages(example), black), str(reason)
        if row.patches.nbytes <= self._cache_left:
            self._rows[number] = row
            self._cache_left -= row.patches.nbytes
        return row, None

    def _target(self, number: int) -> Int[np.ndarray, " T"]:
        if number not in self._targets:
            self._targets[number] = encoding.encode_target(
                self.examples[number], self._sources[number], self.encoder.tokenizer
            )
        return self._targets[number]

    def _target_length(self, number: int) -> int:
        if not self.supervised:
            return 0
        length = len(self._target(number))
        self.buckets.completion_length(length)  # raises if none is large enough
        return length


_LABEL_NAMES = {
    "class_id": ("degradation", "distortion_class", DISTORTION_CLASSES),
    "severity_id": ("degradation", "severity", SEVERITIES),
    "choice_id": ("comparison", "choice", CHOICES),
}


def _label_ids(source: Source, example: Example) -> dict[str, int]:
    """Places of an example's labels among the known ones, -1 where its task or it has none."""

    def place(task: str, key: str, known: Sequence[str]) -> int:
        label = example.answer_labels.get(key) if source.template.task == task else None
        return known.index(label) if label in known else ABSENT

    return {name: place(*where) for name, where in _LABEL_NAMES.items()}
