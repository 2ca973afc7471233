"""Phi-3 and Phi-4-mini language models for navila."""
