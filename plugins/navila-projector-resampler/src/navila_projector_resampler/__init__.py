"""A projector that reads an image into a fixed number of tokens."""
