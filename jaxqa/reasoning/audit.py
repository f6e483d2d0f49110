"""What a pipeline kept and dropped, and why, as a table and as JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.reasoning.human_audit import read_verdicts
from jaxqa.train.json_lines import read_json_lines, replacing


def audit(
    rationales: Path,
    *,
    calls: Mapping[str, Mapping[str, int]],
    total: int,
    wanted: Mapping[str, int],
) -> dict[str, Any]:
    """Count what the lines of a file say.

    Args:
      rationales: the file.
      calls: expert or judge -> what answering took in this process.
      total: images that could have been asked about.
      wanted: group -> images wanted of it, see `Pipeline.quotas`.
    """
    images: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    for record in read_json_lines(rationales):
        reason = "kept" if record["kept"] else record["reason"]
        images[reason] += 1
        groups.setdefault(record["group"], Counter())[reason] += 1
        texts["kept"] += len(record["rationales"])
        texts.update(record["dropped"])
    verdicts = read_verdicts(rationales)
    return {
        "images": {"asked": images.total(), "not_asked": total - images.total(), **_sorted(images)},
        "texts": {"asked": texts.total(), **_sorted(texts)},
        "groups": {
            name: {
                **({"wanted": wanted[name]} if name in wanted else {}),
                "asked": counts.total(),
                **_sorted(counts),
            }
            for name, counts in sorted(groups.items())
        },
        "human": {
            "asked": verdicts.asked,
            "keep": len(verdicts.accepted),
            "drop": len(verdicts.rejected),
            "open": verdicts.open,
        },
        "calls": {role: dict(sorted(counts.items())) for role, counts in calls.items()},
    }


def write_audit(rationales: Path, found: Mapping[str, Any]) -> None:
    """Write `<name>_audit.json` and `<name>_audit.md` beside the file.

    Raises:
      UserError: the disk cannot be written.
    """
    base = rationales.with_name(f"{rationales.stem}_audit")
    with replacing(base.with_suffix(".json")) as file:
        file.write((json.dumps(found, indent=2) + "\n").encode())
    with replacing(base.with_suffix(".md")) as file:
        file.write(_markdown(rationales.name, found).encode())


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """Kept first, then the reasons by how often they occur."""
    reasons = sorted(counts.keys() - {"kept"}, key=lambda name: (-counts[name], name))
    return {"kept": counts["kept"]} | {name: counts[name] for name in reasons}


def _markdown(name: str, found: Mapping[str, Any]) -> str:
    columns = {"images": found["images"], "texts": found["texts"]}
    columns |= {f"`{group}`": counts for group, counts in found["groups"].items()}
    lines = [f"# What became of `{name}`", "", _table(columns), "", "## Human audit", ""]
    lines += [_table({"images": found["human"]}), "", "## Calls of the last process", ""]
    lines += [_table(found["calls"]) if any(found["calls"].values()) else "none", ""]
    return "\n".join(lines)


def _table(columns: Mapping[str, Mapping[str, int]]) -> str:
    rows = list(dict.fromkeys(name for counts in columns.values() for name in counts))
    lines = [
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
        *(
            f"| {name} | " + " | ".join(str(c.get(name, "")) for c in columns.values()) + " |"
            for name in rows
        ),
    ]
    return "\n".join(lines)
