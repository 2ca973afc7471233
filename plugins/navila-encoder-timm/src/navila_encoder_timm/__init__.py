"""Vision transformers of timm as vision encoders for navila."""
