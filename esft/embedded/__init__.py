"""The tiny language model that ships with esft, and the program that trained it."""

from pathlib import Path

EMBEDDED = Path(__file__).parent
"""The model's folder, in Hugging Face form."""
