"""Fine-tune a language model without backpropagation and without losing what it could do."""

__version__ = "0.1.0"
