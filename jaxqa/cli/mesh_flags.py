"""The flags of the doors that only read a model: how devices share it."""

import argparse


def add_flags(flags: argparse._ActionsContainer) -> None:
    """Add `--tensor` and `--fsdp`; devices that neither shares a model with hold copies of it."""
    flags.add_argument("--tensor", type=int, default=1, help="devices that share each layer's work")
    flags.add_argument(
        "--fsdp",
        type=int,
        default=1,
        help="devices that share each parameter and gather it for every token: slow, for models "
        "that are too large for --tensor alone",
    )
