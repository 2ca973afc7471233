"""Linear, MLP and token-merging MLP projectors for navila."""
