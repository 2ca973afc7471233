"""Llama 2, 3 and 3.x language models for navila."""
