"""Pairs inside one device's batch, as in every published ranking reward."""

import dataclasses

import jax.numpy as jnp

from jaxqa.rewards.answers import Targets


def local_batches(targets: Targets, images_per_device: int) -> Targets:
    """Put each run of `images_per_device` rows into a pool of its own, whatever the data set.

    The published code computes rewards on each device before anything is gathered, so only images
    that happen to share a device are ranked against each other. A single image per device divides
    by zero there (VisualQuality-R1, Aes-R1); here, as in TATAR, it earns 0.
    """
    if images_per_device < 1:
        raise ValueError(f"images_per_device is {images_per_device}, expected at least 1")
    rows = jnp.arange(jnp.shape(targets.score)[0], dtype=jnp.int32)
    return dataclasses.replace(targets, pool=rows // images_per_device)
