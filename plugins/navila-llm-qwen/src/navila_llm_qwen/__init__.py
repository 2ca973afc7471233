"""Qwen 2, 2.5 and 3 language models for navila."""
