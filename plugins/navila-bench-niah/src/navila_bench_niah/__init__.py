"""A needle in a haystack of frames, as a benchmark of navila."""
