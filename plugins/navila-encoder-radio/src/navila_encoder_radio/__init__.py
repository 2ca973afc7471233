"""RADIO and C-RADIO vision encoders for navila."""
