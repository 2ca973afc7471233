"""Mixtral language models (mixture of experts) for navila."""
