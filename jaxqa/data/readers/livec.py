"""LIVE in the Wild Image Quality Challenge: three MATLAB files, without its training images.

The first 7 of the 1,169 entries, t1.bmp to t7.bmp, trained the raters; they have no place among
the labelled images.
"""

import re
from pathlib import Path

from jaxqa.data import binary_tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.errors import UserError

TRAINING_IMAGES = r"t[1-7]\.bmp"


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of AllImages_release.mat with the means and deviations of the files beside it."""
    names_path = plain.present(folder, layout)[0][1]
    home = names_path.parent
    cells = binary_tables.read_mat(names_path, "AllImages_release")
    names = [str(binary_tables.unwrap(cell)) for cell in cells]
    means = binary_tables.read_mat(home / "AllMOS_release.mat", "AllMOS_release")
    deviations = binary_tables.read_mat(home / "AllStdDev_release.mat", "AllStdDev_release")
    if not len(names) == len(means) == len(deviations):
        raise UserError(
            f"{home}: {len(names)} names, {len(means)} means and {len(deviations)} deviations; "
            "expected as many of each"
        )
    training = [name for name in names if re.fullmatch(TRAINING_IMAGES, name)]
    if training and training != names[: len(training)]:
        raise UserError(f"{names_path}: training images stand elsewhere than at the beginning")
    table = [
        (
            f"{names_path}, entry {number}",
            {
                "image": name,
                "mos": float(binary_tables.unwrap(mean)),
                "std": float(binary_tables.unwrap(std)),
            },
        )
        for number, (name, mean, std) in enumerate(zip(names, means, deviations, strict=True))
    ]
    return rows.labels([(None, table)], layout)
