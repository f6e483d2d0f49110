"""What `jaxqa data check` says of the splits: their sizes, and what two parts of one share."""

import collections
from collections.abc import Iterable, Sequence

from jaxqa.data import name_lists, registry
from jaxqa.data.discovery import Found
from jaxqa.data.records import OWN, DatasetInfo, LabelledImage
from jaxqa.errors import UserError


def report(
    info: DatasetInfo, source: Found, digests: Sequence[Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Facts and problems of every split that the files or the registry name.

    Args:
        info: The registry's row.
        source: What was found on disk.
        digests: Of every row's images; empty where an image was not read.
    """
    facts, problems = [], []
    for scheme in registry.split_names(info, source.labels.rows):
        try:
            parts = registry.assign(info, source, scheme)
        except UserError as error:
            facts.append(f"split {scheme}: not available: {error}")
            continue
        facts.append(_describe(scheme, parts, info, source.labels.rows))
        problems += _leaks(scheme, parts, source.labels.rows, digests)
        problems += _wrong_counts(scheme, parts, info)
    return facts, problems


def _describe(
    scheme: str, parts: Sequence[str | None], info: DatasetInfo, rows: Sequence[LabelledImage]
) -> str:
    counts = collections.Counter(part for part in parts if part is not None)
    rule = info.splits.get(scheme)
    source = f" ({rule.source})" if rule else " (assigned by the files)"
    test = [row.name for row, part in zip(rows, parts, strict=True) if part == "test"]
    digest = f"; test list SHA-256 {name_lists.digest(test)[:16]}" if test else ""
    numbers = ", ".join(f"{part} {count}" for part, count in counts.items()) or "empty"
    return f"split {scheme}: {numbers}{digest}{source}"


def _wrong_counts(scheme: str, parts: Sequence[str | None], info: DatasetInfo) -> Iterable[str]:
    counts = collections.Counter(parts)
    rule = info.splits.get(scheme)
    published = info.own_counts if scheme == OWN else {}
    for part, expected in (rule.counts if rule else published).items():
        if counts[part] != expected:
            yield f"split {scheme}: {counts[part]} images in {part}, published are {expected}"


def _leaks(
    scheme: str,
    parts: Sequence[str | None],
    rows: Sequence[LabelledImage],
    digests: Sequence[Sequence[str]],
) -> Iterable[str]:
    """What two parts of a split share: a source image, or a picture byte for byte."""
    kinds = {
        "reference image": [row.reference for row in rows],
        "picture": [found[0] if found else None for found in digests],
    }
    for kind, keys in kinds.items():
        homes: dict[str, set[str]] = {}
        for key, part in zip(keys, parts, strict=True):
            if key and part:
                homes.setdefault(key, set()).add(part)
        shared = [key for key, found in homes.items() if len(found) > 1]
        if shared:
            example = rows[keys.index(shared[0])].name
            yield (
                f"split {scheme} leaks: {len(shared)} {kind}s lie in several parts, for example "
                f"that of {example}"
            )
