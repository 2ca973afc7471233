"""InternViT vision encoders for navila."""
