"""Benchmarks of questions about images for navila."""
