"""Layouts that other projects give to everybody's data sets: pyiqa, DeQA, Q-Align, TATAR, ..."""

import dataclasses

from jaxqa.data.layouts import Columns, LabelFile, Layout, label_file

_SIMPLE = Columns()


def pyiqa(
    name: str, images: tuple[str, ...], *, columns: Columns = _SIMPLE, full_reference: bool = False
) -> Layout:
    """pyiqa's `meta_info_NAME.csv`, beside the images or in `meta_info/`."""
    file = f"meta_info_{name}.csv"
    return Layout(
        name="pyiqa",
        reader="pyiqa",
        files=label_file(file, f"meta_info/{file}", f"../meta_info/{file}"),
        images=("", *images),
        columns=columns,
        options={"full_reference": full_reference},
    )


def deqa(
    folder: str, *, test: str, train: str = "", images: tuple[str, ...], columns: Columns = _SIMPLE
) -> Layout:
    """Data-DeQA-Score: `FOLDER/metas/*.json` beside `FOLDER/images`."""
    return Layout(
        name="deqa",
        reader="json",
        files=_parts(
            train=(f"{folder}/metas/{train}.json", f"metas/{train}.json") if train else (),
            test=(f"{folder}/metas/{test}.json", f"metas/{test}.json"),
        ),
        images=("", f"{folder}/images", "images", *images),
        columns=columns,
        split="deqa",
    )


def qalign(
    *, test: str, train: str = "", images: tuple[str, ...], columns: Columns = _SIMPLE
) -> Layout:
    """Q-Align's `playground/data/test_jsons/*.json`; labels may be written as text."""
    homes = ("playground/data/test_jsons/", "playground/data/", "test_jsons/", "")
    training = (
        *("playground/data/generate_label_code/mos_single_simple/", "mos_single_simple/"),
        *homes,
    )
    return Layout(
        name="qalign",
        reader="json",
        files=_parts(
            train=tuple(f"{home}{train}.json" for home in training) if train else (),
            test=tuple(f"{home}{test}.json" for home in homes),
        ),
        images=("", "images", *images),
        columns=columns,
        split="qalign",
    )


def tatar(
    group: str,
    name: str,
    *,
    train: str = "",
    images: tuple[str, ...],
    columns: Columns = _SIMPLE,
) -> Layout:
    """TATAR's `benchmark/VR/GROUP/NAME.json`."""
    file = f"{group}/{name}.json"
    return Layout(
        name="tatar",
        reader="json",
        files=_parts(
            train=(train,) if train else (),
            test=(f"benchmark/VR/{file}", file, f"benchmark/VR/{group}/{name}/{name}.json"),
        ),
        images=("", "images", *images),
        columns=columns,
        split="tatar",
    )


def visualquality_r1(
    name: str, header: str, *, images: tuple[str, ...], columns: Columns = _SIMPLE
) -> Layout:
    """VisualQuality-R1's text columns: `header` names them, for example "ref dis mos std"."""
    names = tuple(header.split())
    standard = dataclasses.replace(
        columns,
        image=("dis",),
        score=("mos",),
        std=columns.std or ("std" if "std" in names else ""),
        reference="ref" if "ref" in names and not columns.pattern else "",
    )
    files = (f"{name}/{name}_mos.txt", f"{name}_mos.txt", f"{name}.txt")
    return Layout(
        name="visualquality_r1",
        reader="columns",
        files=label_file(
            *files, *(f"datasets/{f}" for f in files), *(f"test_data_label/{f}" for f in files)
        ),
        images=("", name, "images", *images),
        columns=standard,
        options={"header": names},
    )


def _parts(*, train: tuple[str, ...], test: tuple[str, ...]) -> tuple[LabelFile, ...]:
    training = (LabelFile(paths=train, part="train"),) if train else ()
    return (*training, LabelFile(paths=test, part="test"))
