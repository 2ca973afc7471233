"""SigLIP vision encoders for navila."""
