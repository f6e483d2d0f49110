"""A tiny CLIP, images with a visible quality, and rationales, for the tests of this folder."""

import functools
import io

import jax
import numpy as np
from PIL import Image

from jaxqa.distill.triplets import ScoreRange, Triplet
from jaxqa.models.clip.config import SIGLIP_MEAN, SIGLIP_STD, ClipConfig, TextConfig, VisionConfig

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})

CLIP = ClipConfig(
    vision=VisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    ),
    text=TextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=560,
        max_position_embeddings=12,
        eos_token_id=1,
    ),
    projection_dim=20,
)
SIGLIP = ClipConfig(
    vision=VisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        image_mean=SIGLIP_MEAN,
        image_std=SIGLIP_STD,
        hidden_act="gelu_pytorch_tanh",
    ),
    text=CLIP.text,
    projection_dim=24,
    family="siglip",
)
SCORES = ScoreRange(low=1.0, high=5.0)
WORDS = ("bad", "poor", "fair", "good", "fine")


def encode(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_triplets(count, seed=0, rationales=2):
    """Images whose contrast is their score, with texts that say so."""
    rng = np.random.default_rng(seed)
    triplets = []
    for number in range(count):
        score = float(rng.uniform(1, 5))
        noise = rng.standard_normal((20, 20, 3)) * 25 * score
        pixels = np.clip(128 + noise, 0, 255).astype(np.uint8)
        word = WORDS[min(int(score), 4)]
        texts = tuple(f"{word} contrast {k}, the quality is {word}." for k in range(rationales))
        triplets.append(
            Triplet(
                name=f"image {number}",
                example_id=1000 + number,
                image=encode(pixels),
                rationales=texts,
                score=score,
            )
        )
    return triplets


def draw_params(config, seed=0):
    """Random parameters without a compilation: matrices by their width, norms near 1."""
    from jaxqa.models.clip.model import Clip

    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        name = jax.tree_util.keystr(path)
        if "norm" in name:
            return np.float32("weight" in name) + 0.1 * noise
        if "logit" in name:
            return np.full(leaf.shape, 2.0, np.float32)
        return noise * np.float32(0.3 if leaf.ndim < 2 else leaf.shape[-2] ** -0.5)

    return jax.tree_util.tree_map_with_path(draw, Clip(config=config).abstract_params())


def make_artifact(config=CLIP, seed=0, dimensions=6, vectors=9, clip=False):
    """A random encoder and a random basis that fits it."""
    from jaxqa.distill.artifact import Artifact
    from jaxqa.distill.basis import OutputMapping, ScoreBasis
    from jaxqa.models.clip.model import Clip

    rng = np.random.default_rng(seed)
    encoder = jax.tree.map(
        lambda leaf: (0.4 * rng.standard_normal(leaf.shape)).astype(np.float32),
        Clip(config=config.image_only()).abstract_params(),
    )
    width = config.projection_dim
    params = {
        "mean": 0.1 * rng.standard_normal(width),
        "components": np.linalg.qr(rng.standard_normal((width, dimensions)))[0],
        "vectors": rng.standard_normal((vectors, dimensions)),
        "scores": rng.uniform(-20, 26, vectors),
    }
    return Artifact(
        config=config.image_only(),
        encoder=encoder,
        basis=ScoreBasis(
            params={name: leaf.astype(np.float32) for name, leaf in params.items()},
            temperature=0.7,
            mapping=OutputMapping(low=1.0, high=5.0, slope=0.9, intercept=0.2, clip=clip),
        ),
        provenance={"teacher": "a test", "images": 3},
    )
