"""Images made from text, rated for quality or for how well they show the text."""

import dataclasses

from jaxqa.data.catalogue.published import deqa, qalign, visualquality_r1
from jaxqa.data.layouts import Columns, Layout, label_file, label_files
from jaxqa.data.records import DatasetInfo
from jaxqa.data.splits import ListSplit, NameList, SeededSplit, WholeSplit

_AGIQA_IMAGES = ("", "images", "AGIQA-3K")
_AGIQA_WHOLE = WholeSplit(source="no official split: the whole set", counts={"test": 2982})
_AGIQA_CITATION = (
    "Li, Zhang, Wu, Sun, Min, Liu, Zhai, Lin: AGIQA-3K: An open database for AI-generated image "
    "quality assessment. IEEE TCSVT 2023"
)


def _qalign_split(number: int) -> ListSplit:
    """Q-Align's lists for fine-tuning; their hashes are not published."""

    def names(part: str) -> NameList:
        file = f"{part}_split_{number}.json"
        homes = ("playground/data/ft/agiqa3k/", "ft/agiqa3k/", "agiqa3k/", "splits/")
        return NameList(files=(*(home + file for home in homes), f"qalign_{file}"))

    return ListSplit(
        lists={"train": names("train"), "test": names("test")},
        total=2982,
        source=f"Q-Align's split {number} of five for fine-tuning (playground/data/ft/agiqa3k)",
    )


def _agiqa_table(score: str, std: str) -> Layout:
    return Layout(
        name="official",
        reader="csv",
        files=label_file("data.csv", "AGIQA-3K/data.csv"),
        images=_AGIQA_IMAGES,
        columns=Columns(
            image=("name",), score=(score,), std=std, prompt="prompt", keep=("adj1", "style")
        ),
    )


AGIQA3K = DatasetInfo(
    name="agiqa3k",
    task="quality",
    label_name="mos_quality",
    label_range=(0.0, 5.0),
    measured_range=(0.0, 4.4887),
    higher_is_better=True,
    deviation="std_quality",
    count=2982,
    licence="see the homepage",
    citation=_AGIQA_CITATION,
    homepage="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    folders=("AGIQA-3K", "AGIQA3K"),
    layouts=(
        _agiqa_table("mos_quality", "std_quality"),
        deqa("AGIQA3K", test="test_agiqa_3k", images=_AGIQA_IMAGES),
        qalign(test="agi", images=_AGIQA_IMAGES),
        visualquality_r1(
            "AGIQA-3K",
            "dis mos std",
            images=_AGIQA_IMAGES,
            columns=Columns(factor=1 / 22.278),  # 0..100 back to the raters' scale
        ),
    ),
    splits={name: _AGIQA_WHOLE for name in ("whole", "qalign", "deqa", "visualquality_r1")}
    | {f"qalign{number}": _qalign_split(number) for number in range(1, 6)},
    notes=(
        "Q-Align fine-tunes on five splits (qalign1 to qalign5), drawn by image and not by prompt: "
        "images of one prompt stand in both parts",
        "Q-Align writes the labels as text",
        "VisualQuality-R1's labels are mos_quality times 22.278; this is undone",
    ),
)

AGIQA3K_ALIGNMENT = dataclasses.replace(
    AGIQA3K,
    name="agiqa3k_alignment",
    task="alignment",
    label_name="mos_align",
    measured_range=(0.0215, 4.286),
    deviation="std_align",
    folders=("agiqa3k", *AGIQA3K.folders),
    layouts=(_agiqa_table("mos_align", "std_align"),),
    splits={"whole": _AGIQA_WHOLE},
    notes=("the same images as agiqa3k, rated for how well they show their prompt",),
)

_EVALMUSE = Columns(
    image=("img_path",),
    score=("mean",),
    reference="prompt_id",  # a drawn split keeps the images of one prompt together
    prompt="prompt",
    name_depth=2,
    keep=("prompt_id", "type", "element_score", "split_confidence", "attribute_confidence")
    + ("fidelity_label", "prompt_meaningless"),
)

EVALMUSE40K = DatasetInfo(
    name="evalmuse40k",
    task="alignment",
    label_name="mean of total_score",
    label_range=(1.0, 5.0),
    higher_is_better=True,
    licence="see the homepage",
    citation="Han et al.: EvalMuse-40K: A reliable and fine-grained benchmark with comprehensive "
    "human annotations for text-to-image generation model evaluation. 2024",
    homepage="https://huggingface.co/datasets/DY-Evalab/EvalMuse",
    folders=("EvalMuse", "EvalMuse-40K"),
    layouts=(
        Layout(
            name="official",
            reader="evalmuse",
            files=label_files(
                train=("train_list.json", "dataset/train_list.json"),
                test=("eval.json", "test.json", "dataset/test.json"),
            ),
            images=("images", "dataset/images", ""),
            columns=_EVALMUSE,
        ),
    ),
    splits={
        "omniquality_r": SeededSplit(
            ratio=(9, 0, 1),
            seed=42,
            source="OmniQuality-R tests on a held-out part that it does not describe; this is a "
            "tenth of the public labels, drawn by prompt with seed 42",
        )
    },
    notes=(
        "about 30,000 training labels are public; test labels are withheld, and rows without "
        "ratings are left out",
        "the key promt_meaningless is misspelt in the files",
        "images.zip comes in parts aa to af: join them with cat, then unzip",
    ),
)

_COMMON = Columns(
    image=("image", "img_path"),
    score=("gt_score", "mos", "score"),
    std="std",
    prompt="prompt",
    part="split",
    name_depth=2,
)


def _common_json(name: str) -> Layout:
    return Layout(
        name="common JSON",
        reader="json",
        files=label_file(f"{name}.json", "labels.json", "test.json"),
        images=("images", ""),
        columns=_COMMON,
    )


_UNKNOWN = (
    "the layout of the release is not known to jaxqa: write a JSON list of objects with image, "
    "gt_score and prompt"
)

EVALMI50K = DatasetInfo(
    name="evalmi50k",
    task="alignment",
    label_name="correspondence MOS",
    label_range=(0.0, 100.0),
    higher_is_better=True,
    count=50400,
    licence="see the homepage",
    citation="Wang et al.: LMM4LMM: Benchmarking and evaluating large-multimodal image "
    "generation with LMMs. ICCV 2025",
    homepage="https://github.com/IntMeGroup/LMM4LMM",
    folders=("EvalMi-50K",),
    layouts=(_common_json("evalmi50k"),),
    notes=(_UNKNOWN,),
)

_GENAI_ROW = Columns(
    image=("image",),
    score=("mean",),
    prompt="prompt",
    name_depth=2,
    keep=("prompt_id", "model"),
)


def _genai_bench(prompts: int) -> DatasetInfo:
    folder = f"GenAI-Image-{prompts}"
    options = {"prompts": prompts}
    return DatasetInfo(
        name=f"genai_bench_{prompts}",
        task="alignment",
        label_name="mean of three ratings",
        label_range=(1.0, 5.0),
        higher_is_better=True,
        count=6 * prompts,
        licence="Apache-2.0",
        citation="Li, Lin, et al.: GenAI-Bench: Evaluating and improving compositional "
        "text-to-visual generation. 2024",
        homepage="https://huggingface.co/datasets/BaiqiL/GenAI-Bench",
        folders=(folder,),
        layouts=(
            Layout(
                name="official",
                reader="genai_bench",
                files=label_file("genai_image.json", f"{folder}/genai_image.json"),
                images=("", folder),
                columns=_GENAI_ROW,
                options=options,
            ),
            Layout(
                name="Parquet",
                reader="genai_parquet",
                files=label_file("data", "GenAI-Bench.parquet"),
                columns=_GENAI_ROW,
                options=options,
            ),
        ),
        splits={"whole": WholeSplit(source="the whole benchmark", counts={"test": 6 * prompts})},
        notes=(
            f"GenAI-Bench has two variants; this is the one with {prompts} prompts, six images "
            "each, and results carry its name",
            "TIGER-Lab's data set of the same name is another one",
        ),
    )


T2I_COMPBENCH = DatasetInfo(
    name="t2i_compbench",
    task="alignment",
    label_name="score",
    label_range=(0.0, 1.0),
    higher_is_better=True,
    licence="MIT, see the homepage",
    citation="Huang, Sun, Xie, Li, Liu: T2I-CompBench: A comprehensive benchmark for open-world "
    "compositional text-to-image generation. NeurIPS 2023",
    homepage="https://github.com/Karine-Huang/T2I-CompBench",
    folders=("T2I-CompBench",),
    layouts=(
        _common_json("t2i_compbench"),
        Layout(
            name="official scores",
            reader="compbench",
            files=label_file("vqa_result.json", "examples/annotation_blip/vqa_result.json"),
            images=("examples/samples", "samples", ""),
            columns=Columns(
                image=("image",), score=("answer",), prompt="prompt", keep=("question_id",)
            ),
        ),
    ),
    notes=(
        "the human ratings come by a private link and their format was not verified: write them "
        "as a JSON list of objects with image, gt_score (0 to 1) and prompt",
        "images are called PROMPT_000000.png; the result files' labels are a metric's, no human's",
    ),
)

INFOS = (
    *(AGIQA3K, AGIQA3K_ALIGNMENT, EVALMUSE40K, EVALMI50K),
    *(_genai_bench(527), _genai_bench(1600), T2I_COMPBENCH),
)
