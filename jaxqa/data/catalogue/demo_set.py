"""The demo data set, which `jaxqa.data.demo` makes on the spot."""

import dataclasses

from jaxqa.data import distortions
from jaxqa.data.layouts import Columns, Layout, label_file
from jaxqa.data.readers import kadid, own_table
from jaxqa.data.records import DatasetInfo

JAXQA_DEMO = DatasetInfo(
    name="jaxqa_demo",
    task="quality",
    label_name="synthetic pseudo-MOS",
    label_range=(1.0, 5.0),
    higher_is_better=True,
    synthetic=True,
    deviation="square root of the column var",
    licence="made on this machine; each photograph keeps its own licence, see its package",
    citation="computed by jaxqa from a full-reference metric; no person rated these images",
    homepage="jaxqa.data.demo",
    layouts=(kadid.LAYOUT,),
    distortions=tuple(distortions.DISTORTIONS),
)


def _task(
    task: str, label_name: str, label_range: tuple[float, float], columns: Columns
) -> DatasetInfo:
    return dataclasses.replace(
        JAXQA_DEMO,
        name=f"jaxqa_demo_{task}",
        task=task,
        label_name=f"synthetic {label_name}",
        label_range=label_range,
        deviation="",
        folders=("jaxqa_demo",),
        layouts=(
            Layout(
                name="official",
                reader="json_lines",
                files=label_file(f"{task}.jsonl"),
                images=("images",),
                columns=dataclasses.replace(
                    columns, part="split", rationale="rationale", prompt="prompt", name_depth=1
                ),
            ),
        ),
        distortions=(),
    )


INFOS = (
    JAXQA_DEMO,
    _task(
        "aesthetics",
        "aesthetic score",
        (0.0, 10.0),
        Columns(reference="reference", keep=("aesthetic_attributes",)),
    ),
    _task("alignment", "share of the text that the picture shows", (1.0, 5.0), Columns()),
    _task("degradation", "class and severity", (0.0, 1.0), own_table.DEGRADATION),
    _task("comparison", "better picture", (0.0, 1.0), own_table.COMPARISON),
)
