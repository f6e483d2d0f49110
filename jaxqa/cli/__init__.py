"""The command line: the one place that reads arguments and the environment."""

import os

# transformers serves for tokenizers only; it need not announce that PyTorch is missing.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
