"""The names that tasks and their answers are made of; arrays hold places in these tuples."""

TASKS = ("quality", "aesthetics", "alignment", "degradation", "comparison")
"""What an example asks for."""

DISTORTION_CLASSES = ("noise", "compression", "blur", "darken", "null")
"""Answers to what degrades an image; "null" is an image without visible degradation."""

SEVERITIES = ("slight", "moderate", "obvious", "serious", "catastrophic", "null")
"""Answers to how strongly, weakest first; "null" goes with the class of that name."""

CHOICES = ("Image A", "Image B", "Similar")
"""Answers to which of two images is better."""

ABSENT = -1
"""The place of an answer that is not there."""
