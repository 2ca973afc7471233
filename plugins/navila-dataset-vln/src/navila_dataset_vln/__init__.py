"""Vision-language navigation datasets in the NaVILA-Dataset format for navila."""
