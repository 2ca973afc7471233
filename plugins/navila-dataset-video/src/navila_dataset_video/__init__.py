"""Questions and captions about videos for navila."""
