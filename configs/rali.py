"""RALI: a reasoning model's words, distilled into a CLIP encoder that scores at once.

    python launchers/train.py --config=configs/rali.py --workdir=runs/rali
    python launchers/train.py --config=configs/rali.py:demo --workdir=runs/rali_demo

A reasoning model (Q-Insight, configs/q_insight.py) writes what it thinks of each training image,
several times; CLIP's image tower learns to meet its frozen text tower at those words; the images'
embeddings are compressed to 512 dimensions and clustered inside 240 buckets of the score to 250
basis vectors, which are fitted to the labels (paper section 4; learning rates, 512, 240 and 250
from section 5.1, temperature 1 and no centring from equation 3). The scorer is written to
artifacts/basis and works wherever a model does: `jaxqa.load`, score, evaluate, serve.

The paper does not give: the number of texts per image, batch, epochs and temperature of the
alignment, what happens to texts over CLIP's 77 tokens, how the 250 vectors are dealt to the
buckets, loss, batch and steps of the fit. What stands here for them is marked as a guess.

Needs runs/q_insight/export (or another reasoning model), checkpoints/clip-vit-large-patch14-336
in safetensors, and datasets/koniq10k. To expect (tables 2 and 4, trained on KonIQ-10k): KonIQ-10k
.939 / .922, average of seven data sets .798 / .779 PLCC / SRCC. Not run at this size by jaxqa yet.

Table 4, each by naming the stages to run, for example
`--config.stages="('rationales', 'align', 'basis', 'basis_no_pca')"`:

    no alignment        basis_unaligned      no PCA             basis_no_pca
    plain k-means       basis_plain          no fitted scores   basis_unfitted
    one seed            align_one_seed, basis_one_seed
    no alignment, one seed (case 1)          basis_unaligned: without alignment texts do not count

Table A.5: the stages a5_case1 to a5_case10; case 7 is basis_unfitted and case 8 is basis.

`demo` takes the rationales of the demo's photographs in place of a reasoning model's and a small
encoder from random weights; docs/rali.md says what it reaches. `demo_words` learns from the words
of the demo's own reasoning model: configs/demo.py first, to runs/demo (--config.model.path=DIR).
"""

import dataclasses

import ml_collections

from jaxqa.distill.alignment import AlignmentConfig
from jaxqa.distill.basis import BasisConfig
from jaxqa.distill.kmeans import ClusterConfig
from jaxqa.distill.pipeline import DistillConfig
from jaxqa.models.clip.config import ClipConfig, TextConfig, VisionConfig
from jaxqa.reasoning.own import ReasoningText
from jaxqa.sampling.config import SamplingConfig
from jaxqa.stages import recipes
from jaxqa.stages.config import make_config
from jaxqa.stages.distill_sections import AlignStage, BasisStage
from jaxqa.stages.encoders import EncoderSource
from jaxqa.stages.sections import RationalesStage, SectionConfig
from jaxqa.stages.sources import DataSource, EvaluationConfig, ModelSource
from jaxqa.train.optimizer import OptimizerConfig

TRAINING_IMAGES = 7046  # KonIQ-10k
TEXTS_PER_IMAGE = 4  # a guess
BATCH_SIZE = 128  # a guess
EPOCHS = 10  # a guess

DEMO_REASONER = ModelSource(path="runs/demo/export", compute_dtype="float32")


def get_config(mode: str | None = None) -> ml_collections.ConfigDict:
    """Full size (`full`, the default), `demo`, or `demo_words`."""
    mode = recipes.choose(mode, "demo", "demo_words")
    if mode != "full":
        return _demo(own_words=mode == "demo_words")
    align = AlignStage(
        steps=EPOCHS * TRAINING_IMAGES // BATCH_SIZE,
        batch_size=BATCH_SIZE,
        encoder=EncoderSource(path="checkpoints/clip-vit-large-patch14-336", remat="full"),
        alignment=AlignmentConfig(text_policy="sentences"),  # a guess
        rationales=("rationales",),
        optimizer=OptimizerConfig(
            learning_rate=1e-5, schedule="cosine", warmup_fraction=0.05, weight_decay=0.1
        ),  # schedule and decay: guesses
    )
    distill = DistillConfig(
        dimensions=512,
        clusters=ClusterConfig(buckets=240, centroids=250),
        basis=BasisConfig(learning_rate=3e-2),  # steps, batch and loss: guesses
    )
    rationales = RationalesStage(
        batch_size=64,
        pipeline=ReasoningText(),
        sampling=SamplingConfig(num_samples=TEXTS_PER_IMAGE, max_new_tokens=256),
    )
    basis = BasisStage(batch_size=128, distill=distill)
    koniq = DataSource(dataset="koniq10k", split="deqa", template="q_insight", scale="measured")
    tests = {
        name: dataclasses.replace(koniq, dataset=dataset, split=split, weight=0.0)
        for name, dataset, split in (
            ("spaq", "spaq", "deqa"),
            ("kadid", "kadid10k", "deqa"),
            ("pipal", "pipal", "deqa"),
            ("livew", "livec", "all"),
            ("agiqa", "agiqa3k", "all"),
            ("csiq", "csiq", "all"),
        )
    }
    return make_config(
        stages={"rationales": rationales, "align": align, "basis": basis},
        spare=_ablations(align, basis) | _table_a5(basis, low=256, high=700, few=(100, 90)),
        model=dataclasses.replace(recipes.qwen("7B"), path="runs/q_insight/export"),
        data=recipes.full_data({"koniq": koniq} | tests, completion_lengths=(160, 384)),
        evaluation=EvaluationConfig(batch_size=32, max_new_tokens=512),
        mesh=recipes.EIGHT_GPUS,
    )


def _ablations(align: AlignStage, basis: BasisStage) -> dict[str, SectionConfig]:
    """Table 4: what each part of the method brings."""

    def changed(**options) -> BasisStage:  # noqa: ANN003
        return dataclasses.replace(basis, distill=dataclasses.replace(basis.distill, **options))

    one_text = dataclasses.replace(align.alignment, max_rationales=1)
    plain = dataclasses.replace(basis.distill.clusters, buckets=1)
    unfitted = dataclasses.replace(basis.distill.basis, fit=False, calibrate=True)
    return {
        "basis_unaligned": dataclasses.replace(basis, aligned=False),
        "basis_no_pca": changed(dimensions=None),
        "basis_plain": changed(clusters=plain),
        "basis_unfitted": changed(basis=unfitted),
        "align_one_seed": dataclasses.replace(align, alignment=one_text),
        "basis_one_seed": dataclasses.replace(basis, align="align_one_seed"),
    }


def _table_a5(
    basis: BasisStage, *, low: int, high: int, few: tuple[int, int]
) -> dict[str, SectionConfig]:
    """Table A.5: dimensions, vectors and buckets; the odd cases are not fitted.

    Args:
      basis: the case that the paper chose, 8.
      low, high: fewer and more dimensions than it keeps.
      few: fewer centroids and buckets than it has.
    """
    chosen = basis.distill
    fewer = dataclasses.replace(chosen.clusters, centroids=few[0], buckets=few[1])
    cases = (
        (2, low, fewer),
        (4, low, chosen.clusters),
        (6, chosen.dimensions, fewer),
        (10, high, chosen.clusters),
    )
    sections: dict[str, SectionConfig] = {}
    for number, dimensions, clusters in cases:
        fitted = dataclasses.replace(chosen, dimensions=dimensions, clusters=clusters)
        loose = dataclasses.replace(chosen.basis, fit=False, calibrate=True)
        unfitted = dataclasses.replace(fitted, basis=loose)
        sections[f"a5_case{number - 1}"] = dataclasses.replace(basis, distill=unfitted)
        sections[f"a5_case{number}"] = dataclasses.replace(basis, distill=fitted)
    return sections


def _demo(*, own_words: bool) -> ml_collections.ConfigDict:
    """The demo's photographs with the data set's or a model's rationales; a two-layer encoder."""
    width = 96
    architecture = ClipConfig(
        vision=VisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=112,
            patch_size=14,
        ),
        text=TextConfig(
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=640,
            eos_token_id=1,
        ),
        projection_dim=64,
    )
    encoder = EncoderSource(
        architecture=architecture, vision_filters="dct", compute_dtype="float32"
    )
    align = AlignStage(
        steps=300,
        batch_size=64,
        save_every=100,
        encoder=encoder,
        alignment=AlignmentConfig(temperature=0.07),
        rationales=("rationales",) if own_words else (),
        optimizer=recipes.demo_optimizer(1e-3),
    )
    distill = DistillConfig(
        dimensions=32,
        clusters=ClusterConfig(buckets=60, centroids=64),
        basis=BasisConfig(learning_rate=3e-2, steps=1500, batch_size=512),
    )
    basis = BasisStage(batch_size=64, distill=distill)
    rationales = RationalesStage(
        batch_size=32, sampling=SamplingConfig(num_samples=4, max_new_tokens=40)
    )
    spare = _ablations(align, basis) | _table_a5(basis, low=20, high=56, few=(25, 22))
    writing: dict[str, SectionConfig] = {"rationales": rationales}
    return make_config(
        stages=(writing if own_words else {}) | {"align": align, "basis": basis},
        spare=spare if own_words else writing | spare,
        # Unless it is to write, a model is only named; nothing asks it.
        model=DEMO_REASONER if own_words else recipes.demo_model(),
        data=dataclasses.replace(
            recipes.demo_data({"demo": recipes.demo_source("quality", "concise")}),
            cache_mb=1024,
        ),
        evaluation=EvaluationConfig(batch_size=40, max_new_tokens=40),
    )
