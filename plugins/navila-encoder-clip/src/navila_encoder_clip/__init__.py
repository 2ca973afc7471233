"""CLIP vision encoders for navila."""
