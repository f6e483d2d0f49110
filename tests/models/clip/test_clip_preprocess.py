"""The same pixels as Hugging Face's Pillow image processors."""

import numpy as np
import pytest
from clip_fixtures import CLIP, SIGLIP, pixel_values

from jaxqa.errors import UserError
from jaxqa.models.clip import hf_config
from jaxqa.models.clip.config import PRESETS
from jaxqa.models.clip.preprocess import prepare_image
from jaxqa.models.clip.vision import normalise

SIZES = [(22, 22), (37, 61), (61, 37), (5, 9), (300, 23), (23, 300), (1, 1), (21, 23), (480, 640)]


def processor(config):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    values = hf_config.preprocessor_config(config)
    values.pop("image_processor_type")
    cls = SiglipImageProcessorPil if config.is_siglip else CLIPImageProcessorPil
    return cls(**values)


@pytest.mark.torch
@pytest.mark.parametrize("config", [CLIP, SIGLIP, PRESETS["vit-b-32"]], ids=["22", "siglip", "224"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_hugging_face(config, size):
    pytest.importorskip("transformers")
    image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = np.kron(image, np.ones((2, 2, 1), np.uint8))  # some smooth parts
    expected = processor(config)(
        images=image, return_tensors="np", input_data_format="channels_last"
    )
    found = prepare_image(image, config)
    side = config.vision.image_size
    assert found.shape == (side, side, 3)
    values = expected["pixel_values"][0].transpose(1, 2, 0)
    # To the level: undo the normalisation and round.
    mean, std = np.array(config.vision.image_mean), np.array(config.vision.image_std)
    np.testing.assert_array_equal(found, np.rint((values * std + mean) * 255))


@pytest.mark.torch
def test_normalisation_equals_hugging_faces_to_rounding():
    pytest.importorskip("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 22, 22, 3)).astype(np.uint8)
    import jax.numpy as jnp

    found = np.asarray(normalise(jnp.asarray(pixels), CLIP.vision)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, pixel_values(pixels, CLIP), rtol=0, atol=5e-7)
    made = processor(CLIP)(
        images=list(pixels), return_tensors="np", input_data_format="channels_last"
    )
    np.testing.assert_allclose(found, made["pixel_values"], rtol=0, atol=5e-7)


def test_extreme_shapes_are_refused_by_name():
    with pytest.raises(UserError, match="strip.png: the image is 1 x 500 pixels"):
        prepare_image(np.zeros((500, 1, 3), np.uint8), CLIP, name="strip.png")
    assert prepare_image(np.zeros((200, 1, 3), np.uint8), CLIP).shape == (22, 22, 3)
