"""From prompts to a batch: filter, resampling, gate, counters; with answers that are written here.

The sampler's answers depend on the example's number alone: `answers_of`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxqa import sharding
from jaxqa.data.batching import PromptBatch
from jaxqa.data.loader import Loader
from jaxqa.data.tokenizer import Tokenizer
from jaxqa.models.qwen2_5_vl.inputs import Prompts
from jaxqa.objectives.advantages import AdvantageConfig, FilterConfig
from jaxqa.objectives.entropy_gate import GateConfig
from jaxqa.objectives.grpo import GrpoConfig
from jaxqa.rewards.registry import RewardTerm
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.sampler import Rollout, Sampler
from jaxqa.train.rollout import RolloutConfig, RolloutSource

ROWS, GROUP, LENGTH = 4, 3, 6
MESH = sharding.make_mesh(sharding.MeshConfig())


def informative(number: int) -> bool:
    """Whether an example's answers differ: every third one's do, and all from 100 on."""
    return number % 3 == 0 or number >= 100


def answers_of(number: int) -> list[str]:
    scores = [2.0, 3.0, 4.0] if informative(number) else [3.0] * 3
    return [f"<think> {number} </think><answer> {score} </answer>" for score in scores]


class FakeLoader(Loader):
    """Rows numbered on and on, up to `wrap`; the position is one number."""

    def __init__(self, wrap: int = 10**6, first: int = 0):
        self.wrap, self.position, self.first = wrap, 0, first

    def __next__(self) -> PromptBatch:
        numbers = (np.arange(ROWS) + ROWS * self.position) % self.wrap + self.first
        self.position += 1
        return host_batch(numbers.astype(np.int64))

    def take(self, work: Any) -> PromptBatch:
        return next(self)

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state) -> None:
        self.position = state["position"]

    def close(self) -> None:
        pass


def host_batch(numbers: np.ndarray, **changes: Any) -> PromptBatch:
    rows, absent = len(numbers), np.full(len(numbers), -1, np.int32)
    prompts = Prompts(
        token_ids=np.stack([numbers, numbers], axis=1).astype(np.int32),
        mask=np.ones((rows, 2), bool),
        positions=np.zeros((rows, 3, 2), np.int32),
        next_position=np.full(rows, 2, np.int32),
        patches=np.zeros((rows, 1, 4, 6), np.uint8),
        patch_mask=np.ones((rows, 1, 4), bool),
        patch_positions=np.zeros((rows, 1, 4, 2), np.int32),
        window_image=np.zeros((rows, 1), np.int32),
        vision_index=np.full((rows, 2), -1, np.int32),
    )
    fields: dict[str, Any] = {
        "prompts": prompts,
        "example_ids": numbers + 2**60,  # float64 cannot tell neighbours of this size apart
        "labels": np.full(rows, 3.0, np.float32),
        "pools": np.zeros(rows, np.int32),
        "task": (numbers % 2).astype(np.int32),
        "class_id": absent,
        "severity_id": absent,
        "choice_id": absent,
        "valid": np.ones(rows, bool),
        "errors": (None,) * rows,
    }
    return PromptBatch(**(fields | changes))


class FakeTokenizer(Tokenizer):
    """A completion's tokens are (example, completion, ...)."""

    def __init__(self):
        pass

    def decode(self, ids: list[int]) -> str:
        return answers_of(ids[0])[ids[1]]


class FakeSampler(Sampler):
    """Completions of several lengths; entropies that tell the example and the place."""

    config = SamplingConfig(num_samples=GROUP, max_new_tokens=LENGTH)

    def __init__(self):
        pass

    def __call__(self, params, prompts, keys) -> Rollout:
        numbers = np.asarray(prompts.token_ids)[:, 0]
        ids = np.zeros((ROWS, GROUP, LENGTH), np.int32)
        ids[:, :, 0] = numbers[:, None]
        ids[:, :, 1] = np.arange(GROUP)
        lengths = 2 + (numbers[:, None] + np.arange(GROUP)) % 4
        mask = np.arange(LENGTH) < lengths[..., None]
        drawn = jax.random.uniform(keys[0, 0], ())
        entropies = np.sin(numbers[:, None, None] + 0.1 * np.arange(LENGTH)) + 0 * mask
        return Rollout(
            token_ids=jnp.asarray(ids),
            mask=jnp.asarray(mask),
            log_probs=jnp.where(mask, -drawn, 0.0),
            entropies=jnp.where(mask, entropies.astype(np.float32), 0.0),
            length=jnp.asarray(lengths.astype(np.int32)),
            num_steps=jnp.int32(lengths.max()),
        )


def make_source(loader: FakeLoader, records: list | None = None, **changes: Any) -> RolloutSource:
    config = RolloutConfig(
        seed=0,
        stage="grpo",
        terms=(("gaussian", RewardTerm(name="gaussian", options={"sigma": 0.8})),),
        advantages=AdvantageConfig(),
        objective=GrpoConfig(aggregation="token_mean"),
        filter=FilterConfig(),
        gate=GateConfig(),
        micro_batches=2,
        completion_lengths=(LENGTH,),
    )
    return RolloutSource(
        dataclasses.replace(config, **changes),
        prompter=loader,
        sampler=FakeSampler(),
        tokenizer=FakeTokenizer(),
        mesh=MESH,
        reference=None,
        write=lambda step, lines: None if records is None else records.append((step, lines)),
    )


FILTER = FilterConfig(tau=0.001)


def examples(batch) -> np.ndarray:
    """Numbers of the examples whose groups a batch trains on."""
    trained = np.asarray(batch.completion_mask).any(axis=(1, 2))
    return np.sort(np.asarray(batch.completion_ids)[trained, 0, 0])


def test_without_a_filter_everything_is_trained_on_as_it_comes():
    batch, metrics = make_source(FakeLoader()).next({}, 0)
    np.testing.assert_array_equal(batch.completion_ids[:, 0, 0], np.arange(4))
    assert batch.micro_batches is None and batch.gate is None
    assert "groups_kept" not in metrics
    assert float(batch.normalizer) == np.asarray(batch.completion_mask).sum()


def test_only_groups_with_a_variance_are_trained_on():
    records = []
    source = make_source(FakeLoader(), records, filter=FILTER)
    batch, metrics = source.next({}, 4)
    np.testing.assert_array_equal(examples(batch), [0, 3])
    assert int(batch.micro_batches) == 1  # 2 groups, and 2 rows in a micro-batch
    mask = np.asarray(batch.completion_mask)
    assert float(batch.normalizer) == mask.sum()
    # Of the rows 0 to 3, the first micro-batch has 0 and 2; the kept groups stand there.
    np.testing.assert_array_equal(mask.any(axis=(1, 2)), [True, False, True, False])
    np.testing.assert_array_equal(batch.completion_ids[:, 0, 0], [0, 1, 3, 2])
    assert metrics["groups_kept"] == 2 and metrics["groups_filtered"] == 2
    assert metrics["filtered_share"] == 0.5 and metrics["all_filtered"] == 0
    assert metrics["resampled"] == metrics["groups_surplus"] == metrics["groups_repeated"] == 0
    step, lines = records[0]
    assert step == 5 and len(lines) == ROWS * GROUP
    assert [line["kept"] for line in lines[::GROUP]] == [True, False, False, True]
    # What was sampled is reported whole: two groups of rewards (r, 1, r), two of (1, 1, 1).
    reward = np.exp(-1 / (2 * 0.8**2))
    assert metrics["reward"] == pytest.approx((1 + (1 + 2 * reward) / 3) / 2, rel=1e-5)
    variance = np.var([reward, 1, reward], ddof=1)
    # Tasks alternate by number: one informative group of two in each.
    assert metrics["group_variance_quality"] == pytest.approx(variance / 2, rel=1e-4)
    assert metrics["group_variance_aesthetics"] == pytest.approx(variance / 2, rel=1e-4)
    assert metrics["groups_quality"] == metrics["groups_aesthetics"] == 2
    for task, numbers in (("quality", (0, 2)), ("aesthetics", (1, 3))):
        mine = [line for line in lines if line["example_id"] - 2**60 in numbers]
        rewards = np.mean([line["reward"] for line in mine])
        assert metrics[f"group_reward_{task}"] == pytest.approx(rewards, rel=1e-5)
        words = np.mean([len(line["text"].split()) for line in mine])
        assert metrics[f"words_{task}"] == pytest.approx(words)
        unparsed = np.mean([line["score"] is None for line in mine])
        assert metrics[f"unparsed_{task}"] == pytest.approx(unparsed)


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
@pytest.mark.parametrize("first", range(3))
def test_the_number_of_micro_batches(first: int, micro_batches: int):
    source = make_source(FakeLoader(first=first), filter=FILTER, micro_batches=micro_batches)
    batch, metrics = source.next({}, 0)
    kept = sum(informative(n) for n in range(first, first + ROWS))
    assert metrics["groups_kept"] == kept
    assert int(batch.micro_batches) == int(np.ceil(kept / (ROWS // micro_batches)))


def test_places_are_filled_by_further_prompts_until_the_rounds_are_used_up():
    for rounds, expected in ((0, [0, 3]), (1, [0, 3, 6]), (2, [0, 3, 6, 9]), (9, [0, 3, 6, 9])):
        records = []
        loader = FakeLoader()
        source = make_source(
            loader, records, filter=dataclasses.replace(FILTER, resample_rounds=rounds)
        )
        batch, metrics = source.next({}, 0)
        np.testing.assert_array_equal(examples(batch), expected)
        used = min(rounds, 2)
        assert metrics["resampled"] == used and loader.position == 1 + used
        assert metrics["groups_kept"] == len(expected)
        assert len(records) == 1 and len(records[0][1]) == (1 + used) * ROWS * GROUP
        assert int(batch.micro_batches) == -(-len(expected) // 2)


def test_what_is_sampled_beyond_the_batch_is_counted():
    config = dataclasses.replace(FILTER, resample_rounds=5)
    source = make_source(FakeLoader(first=98), filter=config)
    batch, metrics = source.next({}, 0)  # 99, 100, 101 | 102, and no place for the next three
    np.testing.assert_array_equal(examples(batch), [99, 100, 101, 102])
    assert metrics["resampled"] == 1 and metrics["groups_surplus"] == 3
    assert metrics["groups_kept"] == 4 and metrics["groups_filtered"] == 1


def test_an_example_is_trained_on_once_per_step():
    # Eight examples in all: the third round brings the first four again, whose keys are the same.
    source = make_source(FakeLoader(wrap=8), filter=dataclasses.replace(FILTER, resample_rounds=2))
    batch, metrics = source.next({}, 0)
    np.testing.assert_array_equal(examples(batch), [0, 3, 6])
    assert metrics["groups_repeated"] == ROWS and metrics["resampled"] == 2
    assert metrics["groups_filtered"] == 5 and metrics["groups_kept"] == 3


def test_every_group_filtered_is_counted_and_holds_nothing():
    source = make_source(FakeLoader(), filter=FilterConfig(tau=5.0, resample_rounds=1))
    batch, metrics = source.next({}, 0)
    assert not batch.completion_mask.any() and int(batch.micro_batches) == 0
    assert metrics["all_filtered"] == 1 and metrics["groups_kept"] == 0
    assert metrics["groups_filtered"] == 2 * ROWS and metrics["filtered_share"] == 1
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(batch))


def test_a_row_without_an_image_is_never_trained_on():
    class Bad(FakeLoader):
        def __next__(self):
            batch = super().__next__()
            return dataclasses.replace(batch, valid=np.array([True, True, False, True]))

    for config, expected in ((FilterConfig(), [0, 1, 3]), (FILTER, [0, 3])):
        batch, _ = make_source(Bad(), filter=config).next({}, 0)
        np.testing.assert_array_equal(examples(batch), expected)


def test_nothing_is_ranked_against_a_row_without_an_image():
    """Whatever is wrong with such a row, the others earn the same."""

    class Bad(FakeLoader):
        def __init__(self, label):
            super().__init__(first=99)
            self.label = label

        def __next__(self):
            batch = super().__next__()
            labels = np.where(np.arange(ROWS) == 2, self.label, batch.labels).astype(np.float32)
            return dataclasses.replace(batch, labels=labels, valid=np.arange(ROWS) != 2)

    terms = (("rank", RewardTerm(name="thurstone_fidelity")),)
    rewards = []
    for label in (1.0, 5.0):
        records = []
        make_source(Bad(label), records, terms=terms).next({}, 0)
        rewards.append([line["reward"] for line in records[0][1]])
    assert rewards[0] == rewards[1]
    assert rewards[0][6:9] == [0, 0, 0] and max(rewards[0]) > 0.5


@pytest.mark.parametrize("among", ["rollout", "kept"])
@pytest.mark.parametrize("rounds", [0, 2])
def test_the_gate_is_the_quantile_of_all_that_was_sampled_or_is_left(among, rounds):
    gate = GateConfig(source="sampler", rho=0.3, among=among)
    for config in (FilterConfig(), dataclasses.replace(FILTER, resample_rounds=rounds)):
        loader = FakeLoader()
        batch, _ = make_source(loader, filter=config, gate=gate).next({}, 0)
        mask = np.asarray(batch.completion_mask)
        numbers = np.asarray(batch.completion_ids)[:, 0, 0]
        entropies = sampled_tokens(numbers, mask.shape[2])[0]
        counted = entropies[mask]
        if among == "rollout":
            everything, sampled = sampled_tokens(np.arange(ROWS * loader.position), LENGTH)
            counted = everything[sampled]
        expected = mask & (entropies >= np.quantile(counted, 0.7, method="higher"))
        np.testing.assert_array_equal(batch.gate, expected)
        assert expected.sum() < mask.sum() and (expected.any() or among == "rollout")


def test_a_row_without_an_image_does_not_count_in_the_gate():
    class Bad(FakeLoader):
        def __next__(self):
            return dataclasses.replace(super().__next__(), valid=np.arange(ROWS) != 1)

    gate = GateConfig(source="sampler", rho=0.3)
    batch, _ = make_source(Bad(), gate=gate).next({}, 0)
    entropies, sampled = sampled_tokens(np.delete(np.arange(ROWS), 1), LENGTH)
    threshold = np.quantile(entropies[sampled], 0.7, method="higher")
    rows = np.asarray(batch.completion_ids)[:, 0, 0]
    mask = np.asarray(batch.completion_mask)
    found = sampled_tokens(rows, mask.shape[2])[0] >= threshold
    np.testing.assert_array_equal(batch.gate, mask & found)


def sampled_tokens(numbers, length):
    """Entropies and mask [N G T] of `FakeSampler`'s completions for these examples."""
    places = np.arange(length)
    lengths = 2 + (numbers[:, None] + np.arange(GROUP)) % 4
    entropies = np.sin(numbers[:, None, None] + 0.1 * places).astype(np.float32)
    mask = places < lengths[..., None]
    return np.broadcast_to(entropies, mask.shape), mask


def test_a_resumed_source_goes_on_at_the_next_example():
    def make() -> RolloutSource:
        return make_source(FakeLoader(), filter=dataclasses.replace(FILTER, resample_rounds=3))

    undisturbed, first = make(), make()
    expected = [undisturbed.next({}, step) for step in range(4)]
    for step in range(2):
        first.next({}, step)
    second = make()
    second.set_state(first.get_state())
    for step in (2, 3):
        batch, metrics = second.next({}, step)
        assert metrics == expected[step][1]
        for left, right in zip(*map(jax.tree.leaves, (batch, expected[step][0])), strict=True):
            np.testing.assert_array_equal(left, right)


def test_all_unparsed_is_an_ordinary_group_of_equals(monkeypatch):
    monkeypatch.setattr(FakeTokenizer, "decode", lambda self, ids: "I cannot say.")
    batch, metrics = make_source(FakeLoader()).next({}, 0)
    assert metrics["unparsed"] == metrics["unparsed_quality"] == 1.0 and metrics["reward"] == 0.0
    np.testing.assert_array_equal(batch.advantages, np.zeros((ROWS, GROUP)))
    batch, metrics = make_source(FakeLoader(), filter=FILTER).next({}, 0)
    assert metrics["all_filtered"] == 1 and int(batch.micro_batches) == 0
