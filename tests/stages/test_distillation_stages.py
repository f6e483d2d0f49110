"""The stages `align` and `basis` in whole runs: what they write, and how they go on."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from rich.console import Console

import jaxqa
from jaxqa import configuration
from jaxqa.configuration import apply_override
from jaxqa.data.records import stable_id
from jaxqa.distill.alignment import AlignmentConfig
from jaxqa.distill.artifact import load_artifact
from jaxqa.distill.basis import BasisConfig
from jaxqa.distill.kmeans import ClusterConfig
from jaxqa.distill.pipeline import DistillConfig
from jaxqa.errors import UserError
from jaxqa.models.clip import weights
from jaxqa.models.clip.config import ClipConfig, TextConfig, VisionConfig
from jaxqa.sharding import MeshConfig
from jaxqa.stages import run
from jaxqa.stages.config import RunConfig, make_config, parse_config
from jaxqa.stages.distill_sections import AlignStage, BasisStage
from jaxqa.stages.encoders import EncoderSource
from jaxqa.train.json_lines import write_json_lines
from jaxqa.train.optimizer import OptimizerConfig
from jaxqa.train.stop import Stopped, StopRequest

QUIET = Console(quiet=True)
CONFIGS = Path(__file__).parents[2] / "configs"
ENCODER = EncoderSource(
    architecture=ClipConfig(
        vision=VisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        text=TextConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=560,
            max_position_embeddings=8,
            eos_token_id=1,
        ),
        projection_dim=12,
    ),
    vision_filters="dct",
    compute_dtype="float32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_run.write_dataset(tmp_path_factory.mktemp("distillation") / "data")


def configured(data: Path, **changes: str) -> RunConfig:
    """A run of two stages on the tiny data set; `__` stands for the dot of an option."""
    base = parse_config(tiny_run.get_config(str(data)))
    stages = {
        "align": AlignStage(
            steps=6,
            batch_size=4,
            save_every=2,
            encoder=ENCODER,
            alignment=AlignmentConfig(temperature=0.1),
            optimizer=OptimizerConfig(learning_rate=1e-2),
        ),
        "basis": BasisStage(
            batch_size=4,
            distill=DistillConfig(
                dimensions=4,
                clusters=ClusterConfig(buckets=3, centroids=5),
                basis=BasisConfig(steps=20),
            ),
        ),
    }
    config = make_config(
        stages=stages,
        spare={"unaligned": dataclasses.replace(stages["basis"], aligned=False)},
        model=base.model,
        data=base.data,
        evaluation=base.evaluation,
    )
    for key, value in changes.items():
        apply_override(config, key.replace("__", "."), value)
    return parse_config(config)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    work = tmp_path_factory.mktemp("run") / "work"
    config = configured(data, stages="('align', 'basis', 'unaligned')")
    return config, work, run.run(config, work, QUIET)


def bits(directory: Path) -> bytes:
    return (directory / "rali.safetensors").read_bytes()


def test_a_run_writes_a_scorer_and_its_test(finished):
    config, work, summary = finished
    assert [stage["name"] for stage in summary["stages"]] == ["align", "basis", "unaligned"]
    align, basis, _ = summary["stages"]
    assert (align["steps"], align["images"], align["texts"]) == (6, 12, 12)
    assert align["evaluation"] is None
    assert (basis["steps"], basis["images"], basis["vectors"]) == (20, 12, 5)
    assert basis["evaluation"]["n"] == 6 and basis["evaluation"]["n_failed"] == 0
    lines = (work / "evaluations" / "basis.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert not (work / "export").exists()  # no policy was trained
    assert (work / "report" / "index.html").exists()
    logged = [json.loads(x) for x in (work / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in logged if x["stage"] == "align"] == [1, 2, 3, 4, 5, 6]
    assert config.trains_policy is False


def test_the_scorer_gives_the_scores_of_the_test(finished, data):
    _, work, _ = finished
    records = [
        json.loads(x) for x in (work / "evaluations" / "basis.jsonl").read_text().splitlines()
    ]
    scorer = jaxqa.load(work / "artifacts" / "basis", mesh=MeshConfig(), block_rows=4)
    found = scorer.score([data / "images" / Path(x["image"]).name for x in records])
    np.testing.assert_allclose([x.score for x in found], [x["score"] for x in records], rtol=1e-6)


def test_alignment_changes_the_tower_and_its_absence_does_not(finished):
    _, work, _ = finished
    aligned, before = (load_artifact(work / "artifacts" / n) for n in ("basis", "unaligned"))
    kernel = "vision_model", "embeddings", "patch_embedding", "kernel"

    def leaf(tree):
        for key in kernel:
            tree = tree[key]
        return np.asarray(tree)

    assert np.abs(leaf(aligned.encoder) - leaf(before.encoder)).max() > 1e-3
    started = ENCODER.params(jax.random.key(0))
    np.testing.assert_array_equal(leaf(before.encoder), leaf(started))  # filters know no seed
    assert aligned.provenance["aligned"] and not before.provenance["aligned"]
    assert aligned.provenance["images"] == 12


def test_a_finished_run_is_not_done_again(finished):
    config, work, summary = finished
    before = (work / "artifacts" / "basis" / "rali.json").stat().st_mtime_ns
    assert run.run(config, work, QUIET) == summary
    assert (work / "artifacts" / "basis" / "rali.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(finished, data, tmp_path):
    config, work, _ = finished

    class StopAt(StopRequest):
        """Asks to stop when step 3 of the alignment has been saved and step 4 begun."""

        @property
        def requested(self):
            return (tmp_path / "work" / "checkpoints" / "align" / "2").is_dir()

        @requested.setter
        def requested(self, value):
            pass

    with pytest.raises(Stopped):
        run.run(config, tmp_path / "work", QUIET, StopAt())
    assert not (tmp_path / "work" / "artifacts").exists()
    run.run(config, tmp_path / "work", QUIET)
    assert bits(tmp_path / "work" / "artifacts" / "basis") == bits(work / "artifacts" / "basis")


@pytest.mark.slow
def test_rationales_come_from_a_file(data, tmp_path):
    records = [json.loads(x) for x in (data / "rationales.jsonl").read_text().splitlines()]
    ids = [stable_id("jaxqa_demo", record["dist_img"]) for record in records]
    lines = [
        {"example_id": i, "kept": True, "rationales": ["much noise", "noise"]} for i in ids[:7]
    ]
    write_json_lines(tmp_path / "texts.jsonl", lines)
    config = configured(
        data, align__rationales=repr((str(tmp_path / "texts.jsonl"),)), align__steps="2"
    )
    summary = run.run(config, tmp_path / "work", QUIET)
    assert (summary["stages"][0]["images"], summary["stages"][0]["texts"]) == (7, 14)
    assert summary["stages"][1]["images"] == 12  # the fit needs no texts


def test_a_directory_as_encoder(data, tmp_path):
    params = jax.tree.map(np.asarray, ENCODER.params(jax.random.key(3)))
    tokenizer = ENCODER.tokenizer(["noise"] * 4)
    weights.save_pretrained(tmp_path / "clip", ENCODER.architecture, params)
    tokenizer.save(tmp_path / "clip")
    source = EncoderSource(path=str(tmp_path / "clip"), compute_dtype="float32")
    assert source.model().config == ENCODER.architecture
    for a, b in zip(
        jax.tree.leaves(source.params(jax.random.key(0))), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert source.tokenizer([]).encode("noise") == tokenizer.encode("noise")
    weights.save_pretrained(tmp_path / "half", ENCODER.architecture.image_only(), params)
    with pytest.raises(UserError, match="image tower only"):
        EncoderSource(path=str(tmp_path / "half")).model()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis__align": "basis"}, "config.basis.align: 'basis' is not a stage of kind align"),
        ({"stages": "('basis', 'align')"}, "'align' is not a stage of kind align that runs before"),
        ({"align__rationales": "('basis',)"}, "'basis' is not a stage of kind rationales"),
        ({"align__steps": "0"}, "steps must be at least 1"),
        ({"align__start_from": "initial"}, "expected one of 'previous'"),
        ({"align__encoder__path": "x"}, "give either path or architecture"),
        ({"align__encoder__architecture": "None"}, "give either path or architecture"),
        ({"align__encoder__architecture__text": "None"}, "expected a text tower"),
        ({"align__alignment__max_rationales": "-1"}, "max_rationales is -1"),
        ({"basis__distill__clusters__centroids": "2"}, "at least as many centroids"),
        ({"basis__distill__basis__temperature": "0.0"}, "temperature is 0.0"),
    ],
)
def test_wrong_configs_are_refused(data, changes, message):
    with pytest.raises(UserError, match=message):
        configured(data, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"align__batch_size": "3", "mesh__data": "2"}, "config.align.batch_size is 3"),
        ({"basis__distill__dimensions": "13"}, "expected at most the embeddings' 12"),
        ({"basis__distill__clusters__centroids": "13"}, "12 labelled images"),
        ({"align__rationales": "('none.jsonl',)"}, "no rationales at none.jsonl"),
        ({"align__encoder__architecture__text__vocab_size": "99"}, "vocab_size of at least 514"),
        ({"data__sources__demo__template": "q_insight", "data__root": "none"}, "none"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_stage(data, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run.run(configured(data, **changes), tmp_path / "work", QUIET)
    assert not (tmp_path / "work" / "config.json").exists()


@pytest.mark.parametrize("mode", [None, "demo"])
def test_the_configs_of_rali_hold_the_papers_numbers(mode):
    spec = str(CONFIGS / "rali.py") + (f":{mode}" if mode else "")
    config = parse_config(configuration.load_config_file(spec))
    assert config.sections["basis"].distill.basis.learning_rate == 3e-2
    assert config.sections["basis"].distill.basis.temperature == 1.0
    if mode is None:
        align, distill = config.sections["align"], config.sections["basis"].distill
        assert align.optimizer.learning_rate == 1e-5
        assert (distill.dimensions, distill.centre) == (512, False)
        assert (distill.clusters.buckets, distill.clusters.centroids) == (240, 250)
    assert not config.sections["basis_unaligned"].aligned
    assert config.sections["basis_no_pca"].distill.dimensions is None
    assert config.sections["basis_plain"].distill.clusters.buckets == 1
    assert config.sections["align_one_seed"].alignment.max_rationales == 1
    assert not config.sections["basis_unfitted"].distill.basis.fit
