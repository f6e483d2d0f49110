"""The demo data set, which `jaxqa.data.demo` makes on the spot."""

from jaxqa.data import distortions
from jaxqa.data.readers import kadid
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

INFOS = (JAXQA_DEMO,)
