"""What `jaxqa data check` finds out about a data set on disk, and whether it can be trusted."""

import collections
import dataclasses
import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxqa.data import discovery, images, nearby, registry, split_report
from jaxqa.data.discovery import Found
from jaxqa.data.readers import plain
from jaxqa.data.records import UNSCORED, DatasetInfo, ImageSource, LabelledImage
from jaxqa.errors import UserError

Progress = Callable[[int, int], None]

_NAMED = 3
_ENDINGS = frozenset(".jpg .jpeg .png .bmp .tif .tiff .webp .gif".split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
        facts: Lines of what is there.
        problems: Lines of what is wrong or doubtful; empty where all is well.
    """

    facts: tuple[str, ...]
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inspected:
    """What looking at one image file gave.

    Attributes:
        size: Height and width; None where it cannot be read.
        digest: Of the encoded bytes; empty where nothing was read.
        error: Why it cannot be read.
    """

    size: tuple[int, int] | None
    digest: str
    error: str


def check(
    name: str,
    root: Path,
    *,
    decode: bool = True,
    num_threads: int = 4,
    progress: Progress = lambda *_: None,
) -> Report:
    """Look at every label and, where `decode`, at every image of a data set.

    Raises:
        UserError: the data set is not there, or its label files cannot be read.
    """
    info = registry.dataset_info(name)
    source = discovery.find_dataset(info, name, root)
    rows = source.labels.rows
    if not rows:
        return Report(facts=tuple(_facts(info, source)), problems=(_no_rows(source),))
    facts, problems = list(_facts(info, source)), list(_label_problems(info, source))
    files = [source.images(row) for row in rows]
    present = {_key(file): file for found in files for file in found if file is not None}
    looked = _inspect(present, decode=decode, num_threads=num_threads, progress=progress)
    facts += _image_facts(looked.values())
    missing, expected = _missing(source, files, info)
    (facts if expected else problems).extend(missing)
    problems += _unreadable(looked)
    facts += _unlabelled(source, present.values())
    digests = [tuple(looked[_key(f)].digest for f in found if f is not None) for found in files]
    problems += _twins(rows, digests)
    more_facts, more_problems = split_report.report(info, source, digests)
    facts += [*more_facts, *(f"known trap: {note}" for note in info.notes)]
    return Report(facts=tuple(facts), problems=tuple([*problems, *more_problems]))


def _facts(info: DatasetInfo, source: Found) -> Iterable[str]:
    layout = "prepared" if source.layout is None else f"layout {source.layout.name}"
    yield f"{info.name}: {len(source.labels.rows)} labelled images in {source.folder} ({layout})"
    yield from _label_facts(info, source.labels.rows)
    deviations = sum("label_std" in row.metadata for row in source.labels.rows)
    if deviations:
        yield f"deviation of the raters: {deviations} images ({info.deviation or 'from the files'})"
    if info.synthetic:
        yield "labels are synthetic: computed, no person gave them"
    yield from source.labels.notes


def _label_facts(info: DatasetInfo, rows: Sequence[LabelledImage]) -> Iterable[str]:
    low, high = info.label_range
    label = f"label: {info.label_name} ({info.task})"
    scale = f"range {low:g} to {high:g}, {'higher' if info.higher_is_better else 'lower'} is better"
    scores = [row.score for row in rows if row.score is not None]
    answers = collections.Counter(", ".join(r.answer_labels.values()) for r in rows)
    if scores:
        found = f"found {min(scores):g} to {max(scores):g}, mean {statistics.fmean(scores):g}"
        yield f"{label}, {scale}; {found}"
    elif not rows:
        yield f"{label}, {scale}" if info.task not in UNSCORED else label
    else:
        yield f"{label}, no score"
    if words := "; ".join(f"{word} {count}" for word, count in answers.most_common() if word):
        yield f"answers: {words}"


def _no_rows(source: Found) -> str:
    files = plain.present(source.folder, source.layout) if source.layout else []
    names = ", ".join(str(path) for _, path in files) or str(source.folder)
    return f"{names}: no rows; expected a line for every image"


def _label_problems(info: DatasetInfo, source: Found) -> Iterable[str]:
    rows = source.labels.rows
    whole = source.layout is None or source.layout.name.startswith("official")
    if whole and info.count and len(rows) != info.count:
        yield f"{len(rows)} labelled images, the published data set has {info.count}"
    try:
        registry.check_labels(info, source.folder, rows)
    except UserError as error:
        yield str(error)
    scores = [row.score for row in rows if row.score is not None]
    if info.measured_range and scores:
        low, high = info.measured_range
        margin = 0.01 * (high - low)
        if min(scores) < low - margin or max(scores) > high + margin:
            yield (
                f"labels from {min(scores):g} to {max(scores):g}, those of the published data set "
                f"are {low:g} to {high:g}: another scale?"
            )
    yield from _direction(info, rows)


def _direction(info: DatasetInfo, rows: Sequence[LabelledImage]) -> Iterable[str]:
    """Stronger distortion must mean worse labels, where levels are known by name."""
    levels: dict[int, list[float]] = {}
    for row in rows:
        if row.score is not None and "distortion_level" in row.metadata:
            levels.setdefault(int(row.metadata["distortion_level"]), []).append(row.score)
    if len(levels) < 2:
        return
    first, last = (statistics.fmean(levels[level]) for level in (min(levels), max(levels)))
    if first != last and (first > last) != info.higher_is_better:
        yield (
            f"direction: labels go from {first:g} at the weakest distortion to {last:g} at the "
            f"strongest, but {'higher' if info.higher_is_better else 'lower'} should be better"
        )


def _inspect(
    files: Mapping[str, ImageSource], *, decode: bool, num_threads: int, progress: Progress
) -> dict[str, _Inspected]:
    looked: dict[str, _Inspected] = {}
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda file: _look(file, decode), files.values())
        for done, (name, result) in enumerate(zip(files, results, strict=True), start=1):
            looked[name] = result
            progress(done, len(files))
    return looked


def _key(file: ImageSource) -> str:
    """What an image is known by while it is looked at."""
    return hashlib.blake2b(file).hexdigest() if isinstance(file, bytes) else str(file)


def _look(file: ImageSource, decode: bool) -> _Inspected:
    name = "image in the table" if isinstance(file, bytes) else str(file)
    try:
        if not decode:
            return _Inspected(size=images.read_size(file, name=name), digest="", error="")
        data = file if isinstance(file, bytes) else file.read_bytes()
        height, width, _ = images.decode(data, name=name).shape
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        return _Inspected(size=(height, width), digest=digest, error="")
    except UserError as error:
        return _Inspected(size=None, digest="", error=str(error))
    except OSError as error:
        return _Inspected(size=None, digest="", error=f"{name}: {error.strerror}")


def _image_facts(looked: Iterable[_Inspected]) -> Iterable[str]:
    sizes = sorted(
        (result.size for result in looked if result.size), key=lambda size: size[0] * size[1]
    )
    if sizes:
        (h, w), (tall, wide) = sizes[0], sizes[-1]
        yield f"{len(sizes)} readable image files, from {w}x{h} to {wide}x{tall} pixels"


def _missing(
    source: Found, files: Sequence[Sequence[ImageSource | None]], info: DatasetInfo
) -> tuple[list[str], bool]:
    """What to say of missing images, and whether so many are known to be missing."""
    rows = source.labels.rows
    names = [row.name for row, found in zip(rows, files, strict=True) if None in found]
    homes = ", ".join(str(home) for home in source.homes)
    line = (
        f"{len(names)} of {len(rows)} labelled images are missing: {_some(names)}; looked in "
        f"{homes}"
    )
    if names:
        first = next(row for row in rows if row.name == names[0])
        line += nearby.image_hint(first.files[0], source.folder, source.homes)
    return [line] * bool(names), len(names) <= info.tolerated_missing


def _unreadable(looked: Mapping[str, _Inspected]) -> Iterable[str]:
    errors = [result.error for result in looked.values() if result.error]
    if errors:
        yield f"{len(errors)} images cannot be read: {'; '.join(errors[:_NAMED])}"


def _unlabelled(source: Found, used: Iterable[ImageSource]) -> Iterable[str]:
    """Image files in the image folders that no label names."""
    if source.layout is None:
        return
    known = {file for file in used if isinstance(file, Path)}
    homes = {file.parent for file in known}
    others = sorted(
        file
        for home in homes
        for file in home.iterdir()
        if file.suffix.lower() in _ENDINGS and file not in known
    )
    if others:
        names = _some([file.name for file in others])
        where = ", ".join(sorted({str(file.parent) for file in others}))
        yield f"{len(others)} image files without a label, in {where}: {names}"


def _twins(rows: Sequence[LabelledImage], digests: Sequence[Sequence[str]]) -> Iterable[str]:
    groups: dict[tuple[str, ...], list[LabelledImage]] = {}
    for row, found in zip(rows, digests, strict=True):
        if found and all(found):
            groups.setdefault(tuple(found), []).append(row)
    doubled = [group for group in groups.values() if len(group) > 1]
    if doubled:
        pairs = _some([" = ".join(row.name for row in group[:2]) for group in doubled])
        yield f"{len(doubled)} images are there more than once, byte for byte: {pairs}"
        differing = [group for group in doubled if len({row.score for row in group}) > 1]
        if differing:
            yield f"{len(differing)} of them with different labels"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
