"""The installed command: `jaxqa NAME ...` opens the same door as `python launchers/NAME.py ...`."""

import importlib
import sys
from collections.abc import Sequence

DOORS = {
    "train": "train a model, or go on where a run stopped",
    "compile": "compile a run for machines that are not there: bytes per chip, fits or not",
    "evaluate": "compare models and tools on labelled data sets",
    "score": "score images: files, folders, patterns, lists",
    "compare": "say which of two images is better",
    "best-of-n": "choose the best of several images of each prompt, or make better ones",
    "tabulate": "tabulate result files of GenEval and T2I-CompBench",
    "serve": "answer scoring requests over HTTP",
    "analyse": "draw what models do, from the answers of an evaluation",
    "generate": "write completions for images and a prompt",
    "convert": "convert a model directory to or from Hugging Face",
    "data": "list, check and prepare data sets",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Open the door named by the first argument; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in DOORS:
        lines = "\n".join(f"  {name:<11}{purpose}" for name, purpose in DOORS.items())
        wanted = arguments[:1] in (["-h"], ["--help"])
        print(f"usage: jaxqa NAME ...\n\n{lines}", file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    module = arguments[0].replace("-", "_")
    return importlib.import_module(f"jaxqa.cli.{module}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
