"""A sample for people to judge: a page to read, a table to fill in, and the verdicts read back."""

import csv
import dataclasses
import html
import io
import random
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jaxqa.data.records import ImageSource
from jaxqa.errors import UserError
from jaxqa.reasoning.image_urls import data_url, sendable
from jaxqa.train.json_lines import Record, read_json_lines, replacing

SHOWN_PIXELS = 480 * 480
COLUMNS = ("id", "image", "score", "verdict", "remark", "text")
VERDICTS = ("keep", "drop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What people said about the sample.

    Attributes:
      asked: images in the sample; 0 where there is none.
      accepted, rejected: numbers of the examples.
    """

    asked: int = 0
    accepted: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()

    @property
    def open(self) -> int:
        """Verdicts that are still missing."""
        return self.asked - len(self.accepted) - len(self.rejected)


def table_path(rationales: Path) -> Path:
    """The table beside a file of rationales."""
    return rationales.with_name(f"{rationales.stem}_human.csv")


def page_path(rationales: Path) -> Path:
    """The page beside a file of rationales."""
    return rationales.with_name(f"{rationales.stem}_human.html")


def write_sample(
    rationales: Path, *, size: int, seed: int, images: Mapping[int, ImageSource]
) -> None:
    """Draw `size` of the kept images and write page and table; a table that exists is left alone.

    Args:
      rationales: the file.
      size: images in the sample, if there are so many.
      seed: of the draw.
      images: by example id, what the page shows.

    Raises:
      UserError: the disk cannot be written.
    """
    if table_path(rationales).exists():
        return
    kept = [record for record in read_json_lines(rationales) if record["kept"]]
    chosen = random.Random(seed).sample(kept, min(size, len(kept)))
    _write_page(page_path(rationales), chosen, images)
    _write_table(table_path(rationales), chosen)  # last: its presence says that both are there


def read_verdicts(rationales: Path) -> Verdicts:
    """What the table beside `rationales` says; nothing where there is no table.

    Raises:
      UserError: the table is damaged, or a verdict is not one of `VERDICTS`.
    """
    path = table_path(rationales)
    if not path.exists():
        return Verdicts()
    judged: dict[str, set[int]] = {verdict: set() for verdict in VERDICTS}
    asked = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write the mark
            head = file.readline()
            separator = max(",;\t", key=head.count)  # and what their language separates with
            file.seek(0)
            for row in csv.DictReader(file, delimiter=separator):
                asked += 1
                number, verdict = row["id"], (row["verdict"] or "").strip().lower()
                if verdict:
                    judged[verdict].add(int(number.removeprefix("id-"), 16))
    except KeyError as error:
        raise UserError(
            f"{path}: verdict or column {error} is unknown; expected the columns "
            f"{', '.join(COLUMNS)}, and in verdict one of {', '.join(VERDICTS)} or nothing"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: {error}; restore the table, or delete it for a new one"
        ) from error
    return Verdicts(
        asked=asked, accepted=frozenset(judged["keep"]), rejected=frozenset(judged["drop"])
    )


def _write_table(path: Path, records: Sequence[Record]) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for record in records:
        text = "\n\n".join(record["rationales"])
        writer.writerow([_id(record), record["image"], record["score"], "", "", text])
    with replacing(path) as file:
        file.write(table.getvalue().encode("utf-8", "backslashreplace"))


def _write_page(path: Path, records: Sequence[Record], images: Mapping[int, ImageSource]) -> None:
    frame = resources.files("jaxqa.reasoning").joinpath("human_audit.html").read_text("utf-8")
    cards = "\n".join(
        _card(number, record, images.get(record["example_id"]))
        for number, record in enumerate(records, 1)
    )
    page = frame.replace("@TABLE@", html.escape(path.with_suffix(".csv").name))
    with replacing(path) as file:
        file.write(page.replace("@CARDS@", cards).encode("utf-8", "backslashreplace"))


def _card(number: int, record: Record, image: ImageSource | None) -> str:
    asked = f"<p>text: <q>{html.escape(record['prompt'])}</q></p>" if record["prompt"] else ""
    texts = "".join(f"<p>{html.escape(text)}</p>" for text in record["rationales"])
    score = "none" if record["score"] is None else f"{record['score']:g}"
    unit = record["unit_score"]
    place = "" if unit is None else f", {unit:.2f} from 0 (worst) to 1 (best)"
    return (
        f'<article data-id="{_id(record)}" data-image="{html.escape(record["image"])}">'
        f"<h2>{number}. {html.escape(record['image'])}</h2>{_picture(image)}"
        f"<p>label: <b>{score}</b>{place} "
        f"({html.escape(record['dataset'])}, {record['task']})</p>{asked}"
        f"{texts}</article>"
    )


def _picture(image: ImageSource | None) -> str:
    if image is None:
        return "<p>This image is no longer among the training images.</p>"
    try:
        url = data_url(*sendable(image, max_pixels=SHOWN_PIXELS))
    except UserError as error:
        return f"<p>{html.escape(str(error))}</p>"
    return f'<img alt="" src="{url}">'


def _id(record: Record) -> str:
    """The number in hexadecimal after letters: a spreadsheet would round it."""
    return f"id-{record['example_id']:x}"
