"""Photographs as they come from cameras, rated for technical quality."""

import dataclasses

from jaxqa.data.catalogue.published import deqa, pyiqa, qalign, tatar, visualquality_r1
from jaxqa.data.layouts import Columns, Layout, label_file
from jaxqa.data.readers import koniq, livec
from jaxqa.data.records import DatasetInfo
from jaxqa.data.splits import ListSplit, NameList, OwnSplit, WholeSplit

_KONIQ_IMAGES = ("1024x768", "512x384", "koniq10k_1024x768", "koniq10k_512x384", "images")
_KONIQ_TABLES = label_file(
    "koniq10k_distributions_sets.csv",
    "metadata/koniq10k_distributions_sets.csv",
    "koniq10k_scores_and_distributions.csv",
    "koniq10k_scores_and_distributions/koniq10k_scores_and_distributions.csv",
)


def _koniq_tables(scale: str) -> Layout:
    return Layout(
        name="official",
        reader="koniq",
        files=_KONIQ_TABLES,
        images=_KONIQ_IMAGES,
        columns=Columns(image=("image_name",), part="set"),
        options={"scale": scale},
    )


_MISSING_IN_QALIGN = frozenset("121123359 213906996 3483143101 3632417985 44009500".split())

_KONIQ_RANGE = (3.9118, 88.389)
_KONIQ_FROM_1_TO_5 = Columns(
    factor=(_KONIQ_RANGE[1] - _KONIQ_RANGE[0]) / 4,
    offset=_KONIQ_RANGE[0] - (_KONIQ_RANGE[1] - _KONIQ_RANGE[0]) / 4,
)
_DEQA_TRAIN = NameList(files=("train_koniq_7k.json", "KONIQ/metas/train_koniq_7k.json"), count=7046)
_KONIQ_SPLITS = {
    "qalign": OwnSplit(
        without=_MISSING_IN_QALIGN,
        train=NameList(
            files=(
                "train_koniq.json",
                "qalign_train_koniq.json",
                "playground/data/generate_label_code/mos_single_simple/train_koniq.json",
            ),
            count=7046,
        ),
        source="Q-Align: the official test set without five images; its 7,046 training images "
        "need its own list train_koniq.json, without which all official ones are taken",
        counts={"train": 7046, "test": 2010},
    ),
    "deqa": OwnSplit(
        without=_MISSING_IN_QALIGN,
        train=_DEQA_TRAIN,
        source="DeQA-Score: the sets of Q-Align",
        counts={"train": 7046, "test": 2010},
    ),
    "tatar": OwnSplit(
        train=_DEQA_TRAIN,
        source="TATAR: the official test set, whole; trains on DeQA-Score's train_koniq_7k.json, "
        "without which all official ones are taken",
        counts={"train": 7046, "test": 2015},
    ),
    "visualquality_r1": WholeSplit(
        source="VisualQuality-R1 tests on all images", counts={"test": 10073}
    ),
}

KONIQ10K = DatasetInfo(
    name="koniq10k",
    task="quality",
    label_name="MOS (z-score)",
    label_range=(1.0, 100.0),
    measured_range=_KONIQ_RANGE,
    higher_is_better=True,
    deviation="SD of the Likert answers, multiplied by 27.82 into the label's scale",
    count=10073,
    licence="see the homepage; photographs from YFCC100M under Creative Commons licences",
    citation="Hosu, Lin, Sziranyi, Saupe: KonIQ-10k: An ecologically valid database for deep "
    "learning of blind image quality assessment. IEEE TIP 2020",
    homepage="https://database.mmsp-kn.de/koniq-10k-database.html",
    folders=("KonIQ-10k", "koniq10k_1024x768", "koniq", "KONIQ"),
    layouts=(
        _koniq_tables("zscore"),
        dataclasses.replace(
            pyiqa("KonIQ10kDataset", _KONIQ_IMAGES, columns=Columns(std_factor=27.82)),
            notes=("pyiqa's mos is the z-score mean, its std is on the Likert scale",),
        ),
        deqa(
            "KONIQ",
            train="train_koniq_7k",
            test="test_koniq_2k",
            images=_KONIQ_IMAGES,
        ),
        qalign(train="train_koniq", test="test_koniq", images=_KONIQ_IMAGES),
        tatar("IQA", "KonIQ-10K", images=_KONIQ_IMAGES),
        dataclasses.replace(
            visualquality_r1(
                "KONIQ-10K", "dis mos std", images=_KONIQ_IMAGES, columns=_KONIQ_FROM_1_TO_5
            ),
            notes=(
                "VisualQuality-R1's list has labels from 1 to 5; they are taken to be its min-max "
                "of the z-score MOS, which was not verified",
            ),
        ),
    ),
    own_counts={"train": 7058, "validation": 1000, "test": 2015},
    splits=_KONIQ_SPLITS,
    notes=(
        "the column MOS is the Likert mean in one official table and the z-score mean in the "
        "other; c1 to c5 tell which, and are checked",
        "the official split needs koniq10k_distributions_sets.csv",
        "images at 1024x768 are taken before those at 512x384",
    ),
)

KONIQ10K_LIKERT = dataclasses.replace(
    KONIQ10K,
    name="koniq10k_likert",
    label_name="MOS (Likert)",
    label_range=(1.0, 5.0),
    measured_range=(1.0962, 4.31),
    deviation="SD of the Likert answers",
    layouts=(_koniq_tables("likert"),),
    folders=("koniq10k", *KONIQ10K.folders),
    notes=(
        "KonIQ-10k with the mean of the five answers as label; its SRCC with the z-score label "
        f"is .9919, with PLCC .9954 and {koniq.ZSCORE_PER_LIKERT} points of it per answer",
    ),
)

_SPAQ_IMAGES = ("TestImage", "SPAQ/TestImage", "Dataset/TestImage", "SPAQ zip/TestImage")
_SPAQ_COLUMNS = Columns(
    image=("Image name", "image_name", "image"),
    score=("MOS", "mos"),
    std="std",
    keep=("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"),
)
_SPAQ_TABLE = "MOS and Image attribute scores"
_SPAQ_TEST = NameList(
    files=(
        *("test_spaq.json", "playground/data/test_jsons/test_spaq.json"),
        *("SPAQ.json", "IQA/SPAQ.json", "benchmark/VR/IQA/SPAQ.json"),
        *("test_spaq_2k.json", "SPAQ/metas/test_spaq_2k.json"),
    ),
    count=2224,
)


def _spaq_split(source: str) -> ListSplit:
    return ListSplit(lists={"test": _SPAQ_TEST}, rest="train", source=source, counts={"test": 2224})


SPAQ = DatasetInfo(
    name="spaq",
    task="quality",
    label_name="MOS",
    label_range=(0.0, 100.0),
    measured_range=(2.0, 96.0),
    higher_is_better=True,
    count=11125,
    licence="research only, see the homepage",
    citation="Fang, Zhu, Zeng, Ma, Wang: Perceptual quality assessment of smartphone "
    "photography. CVPR 2020",
    homepage="https://github.com/h4nwei/SPAQ",
    folders=("SPAQ",),
    layouts=(
        Layout(
            name="official, as CSV",
            reader="csv",
            files=label_file(
                *(f"{home}{_SPAQ_TABLE}.csv" for home in ("Annotations/", "annotations/", "")),
                *("Annotations/MOS.csv", "mos.csv"),
            ),
            images=_SPAQ_IMAGES,
            columns=_SPAQ_COLUMNS,
        ),
        Layout(
            name="official",
            reader="xlsx",
            files=label_file(
                *(f"{home}{_SPAQ_TABLE}.xlsx" for home in ("Annotations/", "annotations/", ""))
            ),
            images=_SPAQ_IMAGES,
            columns=_SPAQ_COLUMNS,
        ),
        pyiqa("SPAQDataset", _SPAQ_IMAGES),
        deqa("SPAQ", train="train_spaq_9k", test="test_spaq_2k", images=_SPAQ_IMAGES),
        qalign(train="train_spaq", test="test_spaq", images=_SPAQ_IMAGES),
        tatar("IQA", "SPAQ", images=_SPAQ_IMAGES),
        visualquality_r1(
            "SPAQ",
            "dis mos std",
            images=_SPAQ_IMAGES,
            columns=Columns(offset=2.0 - 94.0 / 4, factor=94.0 / 4),  # 1..5 back to 2..96
        ),
    ),
    splits={
        "qalign": _spaq_split("Q-Align's 2,224 test images (test_spaq.json)"),
        "tatar": _spaq_split("TATAR's test images, the same as Q-Align's"),
        "deqa": _spaq_split("DeQA-Score's test images (test_spaq_2k.json)"),
        "visualquality_r1": WholeSplit(
            source="VisualQuality-R1 tests on all images", counts={"test": 11125}
        ),
    },
    notes=(
        "there is no official split, and no deviation in the release",
        "Noisiness is kept as the file has it; some papers turn it round (100 - x)",
        "pyiqa resizes the shorter side to 448 for its figures; jaxqa does not",
    ),
)

_LIVEC_IMAGES = ("Images", "images")
_LIVEC_DROP = Columns(
    drop=livec.TRAINING_IMAGES,
    drop_reason="training images t1.bmp to t7.bmp, shown to raters only",
)
_LIVEC_WHOLE = WholeSplit(source="no official split: the whole set", counts={"test": 1162})

LIVEC = DatasetInfo(
    name="livec",
    task="quality",
    label_name="MOS",
    label_range=(0.0, 100.0),
    measured_range=(3.42, 92.432),
    higher_is_better=True,
    deviation="AllStdDev_release.mat",
    count=1162,
    licence="free for research, see the homepage",
    citation="Ghadiyaram, Bovik: Massive online crowdsourced study of subjective and objective "
    "picture quality. IEEE TIP 2016",
    homepage="https://live.ece.utexas.edu/research/ChallengeDB/index.html",
    folders=("ChallengeDB_release", "LIVEC", "LIVE_Challenge", "live_challenge", "CLIVE"),
    layouts=(
        Layout(
            name="official",
            reader="livec",
            files=label_file(
                "Data/AllImages_release.mat", "ChallengeDB_release/Data/AllImages_release.mat"
            ),
            images=("Images", "ChallengeDB_release/Images"),
            columns=dataclasses.replace(_LIVEC_DROP, image=("image",), score=("mos",), std="std"),
        ),
        pyiqa("LIVEChallengeDataset", _LIVEC_IMAGES, columns=_LIVEC_DROP),
        deqa("LIVE-WILD", test="test_livew_1k", images=_LIVEC_IMAGES, columns=_LIVEC_DROP),
        qalign(test="livec", images=_LIVEC_IMAGES, columns=_LIVEC_DROP),
        visualquality_r1("LIVEC", "dis mos std", images=_LIVEC_IMAGES, columns=_LIVEC_DROP),
    ),
    splits={name: _LIVEC_WHOLE for name in ("whole", "deqa", "visualquality_r1")},
    notes=(
        "1,169 are listed; the first 7, t1.bmp to t7.bmp, are the raters' training images and "
        "are left out (Q-Align's and VisualQuality-R1's lists contain them)",
        "file names end in .bmp, .JPG or .jpg",
        "the IQA-Dataset list has 1,161: it lost 100.bmp",
    ),
)

BID = DatasetInfo(
    name="bid",
    task="quality",
    label_name="mean grade",
    label_range=(0.0, 5.0),
    higher_is_better=True,
    count=586,
    licence="see the homepage",
    citation="Ciancio, da Costa, da Silva, Said, Samadani, Obrador: No-reference blur assessment "
    "of digital pictures based on multifeature classifiers. IEEE TIP 2011",
    homepage="http://www.lps.ufrj.br/profs/eduardo/ImageDatabase.htm",
    folders=("BID",),
    layouts=(
        Layout(
            name="as CSV",
            reader="csv",
            files=label_file("DatabaseGrades.csv", "ImageDatabase/DatabaseGrades.csv"),
            images=("ImageDatabase", "BID", "images", ""),
            columns=Columns(
                image=("image", "image_name"), score=("score", "mos", "Average Subjective Grade")
            ),
        ),
        visualquality_r1(
            "BID",
            "dis mos",
            images=("ImageDatabase",),
            columns=Columns(factor=1 / 20),  # 0..100 back to 0..5
        ),
    ),
    splits={"visualquality_r1": WholeSplit(source="VisualQuality-R1 tests on all images")},
    notes=(
        "the layout of the original workbook was not verified: save DatabaseGrades.xlsx as CSV "
        "with the columns image (DatabaseImage0001.JPG) and score",
        "VisualQuality-R1's labels, 0 to 100, are divided by 20",
    ),
)

INFOS = (KONIQ10K, KONIQ10K_LIKERT, SPAQ, LIVEC, BID)
