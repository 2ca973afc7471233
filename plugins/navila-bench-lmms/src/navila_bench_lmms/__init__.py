"""Tasks of lmms-eval for navila, and navila's models for lmms-eval."""
