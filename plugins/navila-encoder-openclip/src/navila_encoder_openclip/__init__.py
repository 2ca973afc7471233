"""Vision towers of open_clip as vision encoders for navila."""
