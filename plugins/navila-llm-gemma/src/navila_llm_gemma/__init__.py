"""Gemma 1, 2 and 3 (text) language models for navila."""
