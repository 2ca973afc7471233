"""Samples, mixtures, packing, collation and data tools for vision-language navigation."""
