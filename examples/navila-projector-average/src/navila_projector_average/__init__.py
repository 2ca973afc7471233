"""A projector that averages the patches of an image."""
