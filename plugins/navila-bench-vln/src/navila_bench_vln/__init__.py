"""Closed-loop vision-language navigation benchmarks for navila."""
