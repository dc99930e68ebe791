"""The tiny language model that ships with esft, and the program that trained it.

Promises: a folder that loads like any checkpoint, offline, and scores what its README says. The
program knows the synthetic tasks; the folder knows nothing, and importing it loads no torch.
"""

from pathlib import Path

EMBEDDED = Path(__file__).parent
"""The model's folder, in Hugging Face form."""
