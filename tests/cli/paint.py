"""Make an image of one colour from a prompt and a seed: `paint.py PROMPT OUTPUT SEED [LOG]`."""

import hashlib
import sys

from PIL import Image

prompt, output, seed, *log = sys.argv[1:]
digest = hashlib.sha256(f"{seed} {prompt}".encode()).digest()
Image.new("RGB", (16, 16), tuple(digest[:3])).save(output)
for path in log:
    with open(path, "a") as file:
        file.write(f"{seed} {prompt!r}\n")
