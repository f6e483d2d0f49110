"""Tasks whose answers are words: what degrades an image, and which of two is better."""

import dataclasses

from jaxqa.data.layouts import Columns, Layout, label_file
from jaxqa.data.readers import own_table
from jaxqa.data.records import DatasetInfo

_HOMEPAGE = "https://huggingface.co/datasets/ByteDance/Q-Insight"
_CITATION = (
    "Li, Zhang, Zhao, Zhang, Li, Zhang: Q-Insight: Understanding image quality via visual "
    "reinforcement learning. 2025"
)


def _layouts(name: str, images: tuple[str, ...], columns: Columns) -> tuple[Layout, ...]:
    return tuple(
        Layout(
            name=title,
            reader=reader,
            files=label_file(*(f"{file}.{ending}" for file in (name, "train", "labels"))),
            images=images,
            columns=columns,
        )
        for title, reader, ending in (
            ("Q-Insight", "json", "json"),
            ("JSON lines", "json_lines", "jsonl"),
            ("CSV", "csv", "csv"),
        )
    )


DEGRADATION = DatasetInfo(
    name="qinsight_degradation",
    task="degradation",
    label_name="distortion class and severity",
    label_range=(0.0, 1.0),
    higher_is_better=True,
    licence="see the homepage; images from KADIS-700K",
    citation=_CITATION,
    homepage=_HOMEPAGE,
    folders=("degradation", "refA_sd_brief", "KADIS"),
    layouts=_layouts(
        "train_dist",
        ("", "images", "refA_sd_brief", "KADIS"),
        dataclasses.replace(own_table.DEGRADATION, name_depth=1),
    ),
    notes=(
        "an image without degradation has the class and the severity null, as the word or as "
        "JSON's null",
        "there is no score: the range is a formality",
    ),
)

COMPARISON = DatasetInfo(
    name="qinsight_comparison",
    task="comparison",
    label_name="the better image",
    label_range=(0.0, 1.0),
    higher_is_better=True,
    count=5000,
    licence="see the homepage",
    citation=_CITATION,
    homepage=_HOMEPAGE,
    folders=("comparison", "DiffIQA"),
    layouts=_layouts(
        "train_comparison",
        ("", "images", "DiffIQA"),
        dataclasses.replace(own_table.COMPARISON, name_depth=2),
    ),
    notes=(
        "5,000 rows over 1,601 references: Image A 2,009, Image B 1,991, Similar 1,000",
        "there is no score: the range is a formality",
    ),
)

INFOS = (DEGRADATION, COMPARISON)
