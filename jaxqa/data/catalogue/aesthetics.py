"""Photographs rated for beauty."""

import dataclasses

from jaxqa.data.catalogue.published import pyiqa, qalign, tatar
from jaxqa.data.layouts import Columns, LabelFile, Layout, label_file, label_files
from jaxqa.data.readers import aadb, artimuse
from jaxqa.data.records import DatasetInfo
from jaxqa.data.splits import ListSplit, NameList, SeededSplit

_AVA_IMAGES = ("image", "images", "ava_images", "AVA_dataset/image", "AVA_dataset/images")
_AVA_COLUMNS = Columns(suffix=".jpg")
_AVA_LISTS = ("aesthetics_image_lists/", "AVA_dataset/aesthetics_image_lists/", "")

AVA = DatasetInfo(
    name="ava",
    task="aesthetics",
    label_name="mean vote",
    label_range=(1.0, 10.0),
    higher_is_better=True,
    deviation="standard deviation of the votes",
    count=255530,
    licence="images belong to their authors on dpchallenge.com; research only",
    citation="Murray, Marchesotti, Perronnin: AVA: A large-scale database for aesthetic visual "
    "analysis. CVPR 2012",
    homepage="https://github.com/imfing/ava_downloader",
    folders=("AVA", "AVA_dataset"),
    layouts=(
        Layout(
            name="official",
            reader="ava",
            files=label_file("AVA.txt", "AVA_dataset/AVA.txt"),
            images=_AVA_IMAGES,
            columns=dataclasses.replace(_AVA_COLUMNS, image=("image",)),
        ),
        pyiqa("AVADataset", _AVA_IMAGES, columns=_AVA_COLUMNS),
        qalign(test="test_ava", images=_AVA_IMAGES, columns=_AVA_COLUMNS),
        tatar("IAA", "AVA", images=_AVA_IMAGES, columns=_AVA_COLUMNS),
    ),
    splits={
        "official": ListSplit(
            lists={
                "test": NameList(
                    files=tuple(f"{home}generic_test.jpgl" for home in _AVA_LISTS), count=20000
                )
            },
            rest="train",
            source="generic_test.jpgl, 20,000 ids of which 19,930 have images; all others train",
            counts={"test": 19930},
        ),
        **{
            name: ListSplit(
                lists={
                    "test": NameList(
                        files=(
                            *("AVA.json", "IAA/AVA.json", "benchmark/VR/IAA/AVA.json"),
                            *("test_ava.json", "playground/data/test_ava.json"),
                        ),
                        count=19930,
                    )
                },
                rest="train",
                source=f"{source}: the official test images that exist",
                counts={"test": 19930},
            )
            for name, source in (("tatar", "TATAR"), ("qalign", "Q-Align"))
        },
    },
    tolerated_missing=2000,
    notes=(
        "some hundred listed images are not in the archives, and some are damaged: their rows "
        "are left out, or cost their image only",
        "mean votes are exact; pyiqa and the JSON lists round them",
    ),
)

TAD66K = DatasetInfo(
    name="tad66k",
    task="aesthetics",
    label_name="score",
    label_range=(1.0, 10.0),
    measured_range=(1.13, 9.46),
    higher_is_better=True,
    count=66327,
    licence="research only, see the homepage",
    citation="He, Zhang, Xie, Jiang, Ming: Rethinking image aesthetics assessment: models, "
    "datasets and benchmarks. IJCAI 2022",
    homepage="https://github.com/woshidandan/TANet-image-aesthetics-and-quality-assessment",
    folders=("TAD66K",),
    layouts=(
        Layout(
            name="official",
            reader="csv",
            files=label_files(
                train=("dataset/merge/train.csv", "merge/train.csv", "labels/merge/train.csv"),
                test=("dataset/merge/test.csv", "merge/test.csv", "labels/merge/test.csv"),
            ),
            images=("TAD66K", "images", ""),
            columns=Columns(image=("image",), score=("score",)),
        ),
        tatar("IAA", "TAD66K", images=("TAD66K", "images")),
    ),
    own_counts={"train": 52248, "test": 14079},
    notes=("file names contain @; the longest side has 800 pixels",),
)

_FLICKR_TEST = ListSplit(
    lists={
        "test": NameList(
            files=(
                *("FLICKR-AES.json", "IAA/FLICKR-AES.json"),
                *("benchmark/VR/IAA/FLICKR-AES.json", "test_flickr_aes.json"),
            ),
            count=4737,
        )
    },
    rest="train",
    source="the 4,737 images of 37 test workers (Ren 2017), as ArtiMuse and TATAR list them",
    counts={"test": 4737},
)
_AES_R1_SEED = "Aes-R1 divides 9:1 at random with a seed that it does not name; this is seed 42"

FLICKR_AES = DatasetInfo(
    name="flickr_aes",
    task="aesthetics",
    label_name="score",
    label_range=(0.2, 1.0),
    measured_range=(0.2, 1.0),
    higher_is_better=True,
    count=40988,
    licence="Flickr images under Creative Commons licences, research only",
    citation="Ren, Shen, Lin, Mech, Foran: Personalized image aesthetics. ICCV 2017",
    homepage="https://github.com/alanspike/personalizedImageAesthetics",
    folders=("FLICKR-AES", "FLICKR_AES"),
    layouts=(
        Layout(
            name="official",
            reader="columns",
            files=label_file("FLICKR-AES_image_score.txt"),
            images=("40K", "images"),
            columns=Columns(image=("image",), score=("score",)),
            options={"header": ("image", "score")},
        ),
        tatar("IAA", "FLICKR-AES", images=("40K",)),
    ),
    splits={
        "tatar": _FLICKR_TEST,
        "official": _FLICKR_TEST,
        "aes_r1": SeededSplit(ratio=(9, 0, 1), seed=42, source=_AES_R1_SEED),
    },
    notes=(
        "some lines of the label file begin with a blank",
        "scores are weighted means of 1 to 5, divided by 5",
    ),
)

_PARA_WORDS = ("aestheticScore_mean", "aestheticScore_std")

PARA = DatasetInfo(
    name="para",
    task="aesthetics",
    label_name="aestheticScore_mean",
    label_range=(1.0, 5.0),
    higher_is_better=True,
    deviation="aestheticScore_std",
    count=31220,
    licence="research only",
    citation="Yang, Xu, Li, Qie, Li, Zhang, Guo: Personalized image aesthetics assessment with "
    "rich attributes. CVPR 2022",
    homepage="https://cv-datasets.institutecv.com/#/data-sets",
    folders=("PARA",),
    layouts=(
        Layout(
            name="official",
            reader="csv",
            files=label_files(
                train=("annotation/PARA-GiaaTrain.csv", "PARA-GiaaTrain.csv"),
                test=("annotation/PARA-GiaaTest.csv", "PARA-GiaaTest.csv"),
            ),
            images=("imgs", "images"),
            columns=Columns(
                image=("imageName",),
                folder="sessionId",
                score=_PARA_WORDS[:1],
                std=_PARA_WORDS[1],
                keep=("semantic", "qualityScore_mean", "qualityScore_std"),
            ),
        ),
    ),
    own_counts={"train": 28220, "test": 3000},
    notes=("columns are taken by name: the header of the release differs from its description",),
)

_AADB_HOMES = ("", "imgListFiles_label/")


def _aadb_lists(*names: str) -> tuple[str, ...]:
    return tuple(
        f"{home}imgList{name}Regression_score.txt" for name in names for home in _AADB_HOMES
    )


AADB = DatasetInfo(
    name="aadb",
    task="aesthetics",
    label_name="score",
    label_range=(0.0, 1.0),
    measured_range=(0.0, 1.0),
    higher_is_better=True,
    count=10000,
    licence="Flickr images under Creative Commons licences, see the homepage",
    citation="Kong, Shen, Lin, Mech, Fowlkes: Photo aesthetics ranking network with attributes "
    "and content adaptation. ECCV 2016",
    homepage="https://github.com/aimerykong/deepImageAestheticsAnalysis",
    folders=("AADB",),
    layouts=(
        Layout(
            name="official",
            reader="aadb",
            files=(
                LabelFile(paths=_aadb_lists("Train"), part="train"),
                LabelFile(paths=_aadb_lists("Validation"), part="validation"),
                LabelFile(paths=_aadb_lists("TestNew", "Test"), part="test"),
            ),
            images=(
                *("datasetImages_originalSize", "AADB_newtest_originalSize"),
                *("datasetImages_warp256", "AADB_newtest", "images"),
            ),
            columns=Columns(image=("image",), score=("score",), keep=aadb.KEEP),
        ),
    ),
    own_counts={"train": 8500, "validation": 500, "test": 1000},
    splits={"aes_r1": SeededSplit(ratio=(9, 0, 1), seed=42, source=_AES_R1_SEED)},
    notes=(
        "the test list in use is TestNew; Test is read where that is absent",
        "one attribute's lists are called BalacingElements, misspelt; attributes are -1 to 1",
        "AADBinfo.mat of the repository lists 8,458 for training and 1,000 for the test",
    ),
)

ARTIMUSE10K = DatasetInfo(
    name="artimuse10k",
    task="aesthetics",
    label_name="score",
    label_range=(0.0, 10.0),
    measured_range=(0.0, 10.0),
    higher_is_better=True,
    count=10000,
    licence="non-commercial, no redistribution; images on request",
    citation="ArtiMuse: Fine-grained image aesthetics assessment with joint scoring and "
    "expert-level understanding. 2025",
    homepage="https://huggingface.co/datasets/Thunderbolt215215/ArtiMuse-10K",
    folders=("ArtiMuse-10K", "ArtiMuse-10K-251219"),
    layouts=(
        Layout(
            name="official",
            reader="artimuse",
            files=label_files(
                train=("train_iaa.json", "train.json", "ArtiMuse-10K_train.json"),
                test=(
                    *("test.json", "ArtiMuse-10K_test.json", "ArtiMuse-10K.json"),
                    *("IAA/ArtiMuse-10K.json", "benchmark/VR/IAA/ArtiMuse-10K.json"),
                ),
            ),
            images=("images", ""),
            columns=Columns(
                pattern=r"(?P<category>\d{1,2})_(?P<reference>\d+)\.\w+",
                keep=("rationale", artimuse.KEY),
            ),
        ),
    ),
    own_counts={"train": 8998, "test": 1002},
    notes=(
        "the training list is TATAR's train_iaa.json",
        "names are CATEGORY_NUMBER.jpg, category 0 to 18",
        "the experts' remarks (conversations) are read from *text*.jsonl beside the lists, or from "
        "lists merged with them, key aesthetic_attributes",
    ),
)

INFOS = (AVA, TAD66K, FLICKR_AES, PARA, AADB, ARTIMUSE10K)
