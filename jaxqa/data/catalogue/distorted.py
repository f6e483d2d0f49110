"""Clean images and their distorted versions, rated for technical quality."""

import dataclasses

from jaxqa.data.catalogue.published import deqa, pyiqa, qalign, tatar, visualquality_r1
from jaxqa.data.layouts import Columns, Layout, label_file
from jaxqa.data.readers import kadid
from jaxqa.data.records import DatasetInfo
from jaxqa.data.splits import ListSplit, NameList, ReferenceSplit, WholeSplit


def _references(numbers: str) -> frozenset[str]:
    return frozenset(f"I{int(number):02d}" for number in numbers.split())


_OURS = "validation references chosen by jaxqa (the source names none)"
_TATAR_TEST = _references("3 12 13 16 22 26 29 37 41 45 48 50 51 57 63 66")
_TATAR_VALIDATION = _references("4 10 20 28 36 44 52 60")
_KADID_COUNTS = {"train": 57 * 125, "validation": 8 * 125, "test": 16 * 125}

_KADID_SPLITS = {
    "qalign": ReferenceSplit(
        test=_references(" ".join(str(number) for number in range(66, 82))),
        validation=_references("4 12 20 28 36 44 52 60"),
        source=f"Q-Align's test list; {_OURS}",
        counts=_KADID_COUNTS,
    ),
    "tatar": ReferenceSplit(
        test=_TATAR_TEST,
        validation=_TATAR_VALIDATION,
        source=f"TATAR's test list; {_OURS}",
        counts=_KADID_COUNTS,
    ),
    "visualquality_r1": ReferenceSplit(
        test=_references("19 29 30 34 37 38 43 50 64 71 72 73 74 78 80 81"),
        validation=_references("2 6 10 14 18 22 26 31 35 40 45 49 54 58 62 67"),
        source=f"VisualQuality-R1's test list, sizes 6:2:2; {_OURS}",
        counts={"train": 49 * 125, "validation": 2000, "test": 2000},
    ),
}

_KADID_FILE = Columns(pattern=kadid.PATTERN)

KADID10K = DatasetInfo(
    name="kadid10k",
    task="quality",
    label_name="dmos",
    label_range=(1.0, 5.0),
    measured_range=(1.0, 4.93),
    higher_is_better=True,  # level means fall from 4.08 to 2.01: "dmos" is a misnomer
    deviation="square root of the column var",
    count=10125,
    licence="reference photographs from pixabay.com; terms of the whole on the homepage",
    citation="Lin, Hosu, Saupe: KADID-10k, a large-scale artificially distorted IQA database. "
    "QoMEX 2019",
    homepage="https://database.mmsp-kn.de/kadid-10k-database.html",
    folders=("KADID-10k", "KADID10K", "kadid"),
    layouts=(
        kadid.LAYOUT,
        pyiqa(
            "KADID10kDataset",
            ("images",),
            columns=dataclasses.replace(_KADID_FILE, std_is_variance=True),
            full_reference=True,
        ),
        deqa(
            "KADID10K",
            train="train_kadid_8k",
            test="test_kadid_2k",
            images=("images",),
            columns=_KADID_FILE,
        ),
        qalign(train="train_kadid", test="test_kadid", images=("images",), columns=_KADID_FILE),
        tatar("IQA", "KADID", images=("images",), columns=_KADID_FILE),
        visualquality_r1("KADID-10K", "ref dis mos std", images=("images",), columns=_KADID_FILE),
    ),
    splits=_KADID_SPLITS,
    distortions=(
        *("gaussian_blur", "lens_blur", "motion_blur"),
        *("colour_diffusion", "colour_shift", "colour_quantisation"),
        *("colour_saturation_hsv", "colour_saturation_lab", "jpeg2000", "jpeg"),
        *("white_noise", "white_noise_colour_component", "impulse_noise", "multiplicative_noise"),
        *("denoise", "brighten", "darken", "mean_shift"),
        *("jitter", "non_eccentricity_patch", "pixelate", "quantisation", "colour_block"),
        *("high_sharpen", "contrast_change"),
    ),
    notes=(
        "dmos rises with quality although its name says otherwise, and is not turned round",
        "var is a variance; pyiqa's meta file calls it std, and its root is taken there too",
        "references and distorted images lie in one folder; only the latter are rated",
        "Q-Align's list exists in revisions that differ; the named split is the last one, I66 to "
        "I81, in which labels stand in the ids",
        "the papers' test sets differ: 125, 375 and 875 images are shared by two of them, "
        "none by all",
    ),
)

_PIPAL_IMAGES = (
    *("Train_Dist", "Dist_Imgs", "Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4"),
    *(f"training/Distortion/Distortion_{i}" for i in range(1, 5)),
    *(f"PIPAL/images/Distortion_{i}" for i in range(1, 5)),
    *("training/Distortion", "Distortion", "images"),
)
_PIPAL_FILE = Columns(
    pattern=r"(?P<reference>A\d{4})_(?P<distortion_type>\d{2})_(?P<distortion_index>\d{2})\.\w+",
)
_PIPAL_RANGE = (916.71, 1835.99)
_FROM_1_TO_5 = dataclasses.replace(
    _PIPAL_FILE,
    factor=(_PIPAL_RANGE[1] - _PIPAL_RANGE[0]) / 4,
    offset=_PIPAL_RANGE[0] - (_PIPAL_RANGE[1] - _PIPAL_RANGE[0]) / 4,
)
_PIPAL_SPLIT = ListSplit(
    lists={
        "test": NameList(
            files=(
                *("PIPAL.json", "IQA/PIPAL.json", "benchmark/VR/IQA/PIPAL.json"),
                *("test_pipal_5k.json", "PIPAL/metas/test_pipal_5k.json"),
            ),
            count=4640,
        )
    },
    rest="train",
    source="the 40 references (4,640 images) that TATAR and DeQA-Score test on",
    counts={"train": 160 * 116, "test": 4640},
)

PIPAL = DatasetInfo(
    name="pipal",
    task="quality",
    label_name="Elo",
    label_range=(916.0, 1836.0),  # Elo has no nominal range: the measured one, rounded
    measured_range=_PIPAL_RANGE,
    higher_is_better=True,
    count=23200,
    licence="research only, see the homepage",
    citation="Gu, Cai, Chen, Ye, Ren, Dong: PIPAL: a large-scale image quality assessment "
    "dataset for perceptual image restoration. ECCV 2020",
    homepage="https://github.com/HaomingCai/PIPAL-dataset",
    folders=("PIPAL",),
    layouts=(
        Layout(
            name="official",
            reader="pipal",
            files=label_file(
                "Train_Label", "training/MOS_Scores_train", "MOS_Scores_train", "MOS_Scores"
            ),
            images=_PIPAL_IMAGES,
            columns=dataclasses.replace(_PIPAL_FILE, image=("image",), score=("elo",)),
        ),
        pyiqa("PIPALDataset", _PIPAL_IMAGES, columns=_PIPAL_FILE, full_reference=True),
        deqa(
            "PIPAL",
            test="test_pipal_5k",
            images=_PIPAL_IMAGES,
            columns=_FROM_1_TO_5,
        ),
        tatar("IQA", "PIPAL", images=_PIPAL_IMAGES, columns=_FROM_1_TO_5),
        dataclasses.replace(
            visualquality_r1("PIPAL", "ref dis mos", images=_PIPAL_IMAGES, columns=_PIPAL_FILE),
            notes=("VisualQuality-R1's list is taken to hold Elo; other numbers are refused",),
        ),
    ),
    splits={
        "tatar": _PIPAL_SPLIT,
        "deqa": _PIPAL_SPLIT,
        "visualquality_r1": WholeSplit(
            source="VisualQuality-R1 tests on all images", counts={"test": 23200}
        ),
    },
    notes=(
        "labels are Elo ratings: A is better than B with probability 1/(1+10^((B-A)/400))",
        "DeQA-Score and TATAR rescale Elo to 1 to 5 over all images; this is undone",
        "images lie in Train_Dist, Dist_Imgs or Distortion_1 to 4; all are searched",
        "Elo has no nominal range; the measured one, 916.71 to 1835.99, is taken",
    ),
)

_CSIQ_PATTERN = (
    r"(?P<reference>.+)\.(?P<distortion>awgn|blur|contrast|fnoise|jpeg|jpeg2000)"
    r"\.(?P<distortion_level>\d)\.\w+"
)
_CSIQ_IMAGES = (
    "dst_imgs",
    *(f"dst_imgs/{kind}" for kind in ("awgn", "blur", "contrast", "fnoise", "jpeg", "jpeg2000")),
    *("dst_imgs_all", "images"),
)
_CSIQ_FLIP = Columns(pattern=_CSIQ_PATTERN, offset=1.0, factor=-1.0)
_CSIQ_WHOLE = WholeSplit(source="no official split: all distorted images", counts={"test": 866})

CSIQ = DatasetInfo(
    name="csiq",
    task="quality",
    label_name="1 - DMOS",
    label_range=(0.0, 1.0),
    measured_range=(0.0, 1.0),
    higher_is_better=True,
    deviation="dmos_std",
    count=866,
    licence="see the homepage",
    citation="Larson, Chandler: Most apparent distortion: full-reference image quality "
    "assessment and the role of strategy. Journal of Electronic Imaging 2010",
    homepage="https://s2.smu.edu/~eclarson/csiq.html",
    folders=("CSIQ",),
    layouts=(
        Layout(
            name="text",
            reader="columns",
            files=label_file("csiq_label.txt"),
            images=_CSIQ_IMAGES,
            columns=dataclasses.replace(_CSIQ_FLIP, image=("image",), score=("dmos",)),
            options={"header": ("image", "dmos")},
        ),
        Layout(
            name="official",
            reader="csiq",
            files=label_file("csiq.DMOS.csv", "csiq.DMOS.xlsx"),
            images=_CSIQ_IMAGES,
            columns=dataclasses.replace(
                _CSIQ_FLIP, image=("file",), score=("dmos",), std="dmos_std"
            ),
        ),
        pyiqa("CSIQDataset", _CSIQ_IMAGES, columns=_CSIQ_FLIP, full_reference=True),
        qalign(test="csiq", images=_CSIQ_IMAGES, columns=_CSIQ_FLIP),
    ),
    splits={name: _CSIQ_WHOLE for name in ("whole", "deqa", "visualquality_r1")},
    notes=(
        "the files hold DMOS, which falls with quality; the label is 1 - DMOS, so that it rises",
        "Q-Align's list has 750 images, without blur, and DMOS as it is",
        "the direction of DeQA-Score's and VisualQuality-R1's lists was not verified: read them as "
        "file:PATH#range=0..1,direction=...",
        "folders and file names differ in case between mirrors (awgn or AWGN)",
    ),
)

_TID_WHOLE = WholeSplit(source="no official split: all distorted images", counts={"test": 3000})
_TID_FILE = Columns(
    pattern=r"(?P<reference>I\d{2})_(?P<distortion_type>\d{2})_(?P<distortion_level>\d)\.\w+"
)
_TID_IMAGES = ("distorted_images", "images")

TID2013 = DatasetInfo(
    name="tid2013",
    task="quality",
    label_name="MOS",
    label_range=(0.0, 9.0),
    measured_range=(0.2424, 7.2143),
    higher_is_better=True,
    count=3000,
    licence="see the homepage",
    citation="Ponomarenko et al.: Image database TID2013: Peculiarities, results and "
    "perspectives. Signal Processing: Image Communication 2015",
    homepage="https://www.ponomarenko.info/tid2013.htm",
    folders=("TID2013",),
    layouts=(
        Layout(
            name="official",
            reader="columns",
            files=label_file("mos_with_names.txt"),
            images=_TID_IMAGES,
            columns=dataclasses.replace(_TID_FILE, image=("image",), score=("mos",)),
            options={"header": ("mos", "image")},
        ),
        pyiqa("TID2013Dataset", _TID_IMAGES, columns=_TID_FILE, full_reference=True),
        deqa("TID2013", test="test_tid2013_3k", images=_TID_IMAGES, columns=_TID_FILE),
    ),
    splits={name: _TID_WHOLE for name in ("whole", "deqa", "visualquality_r1")},
    notes=(
        "file names mix I01 and i01, .BMP and .bmp; they are found whatever the case",
        "reference i25.bmp is written small, all others with a capital",
        "the scale of VisualQuality-R1's list was not verified: read it as file:PATH#range=...",
    ),
)

INFOS = (KADID10K, PIPAL, CSIQ, TID2013)
