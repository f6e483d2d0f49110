"""What restoration methods made of images, as VisualQuality-R1 tests on them."""

from jaxqa.data.catalogue.published import visualquality_r1
from jaxqa.data.records import DatasetInfo
from jaxqa.data.splits import WholeSplit

_HOMEPAGE = "https://github.com/TianheWu/VisualQuality-R1"
_CITATION = (
    "labels as distributed with Wu et al.: VisualQuality-R1: Reasoning-induced image quality "
    "assessment via reinforcement learning to rank. 2025"
)
_NOTE = (
    "the name of the label file was not verified; it holds `reference image label` a line "
    "(columns separated by blanks)"
)


def _set(
    name: str, file: str, others: tuple[str, ...], *, count: int, label_range: tuple[float, float]
) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        task="quality",
        label_name="MOS",
        label_range=label_range,
        measured_range=label_range,
        higher_is_better=True,
        count=count,
        licence="see the sources that VisualQuality-R1 names",
        citation=_CITATION,
        homepage=_HOMEPAGE,
        folders=(file,),
        layouts=tuple(
            visualquality_r1(other, "ref dis mos", images=(file,)) for other in (file, *others)
        ),
        splits={"visualquality_r1": WholeSplit(source="VisualQuality-R1", counts={"test": count})},
        notes=(_NOTE,),
    )


INFOS = (
    _set("deblurring", "Deblur", ("deblur", "DEBLUR"), count=1199, label_range=(1.0, 5.0)),
    _set("dehazing", "dehaze", ("Dehaze", "DEHAZE"), count=600, label_range=(1.0, 5.0)),
    _set("super_resolution", "SRIQA-Bench", ("SRIQA",), count=1100, label_range=(0.0, 100.0)),
)
