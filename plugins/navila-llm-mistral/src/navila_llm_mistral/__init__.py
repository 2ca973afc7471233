"""Mistral language models for navila."""
