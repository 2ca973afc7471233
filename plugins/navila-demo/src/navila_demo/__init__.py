"""navila demo: a small trained checkpoint navigating unseen procedural houses."""
