"""Video benchmarks of navila."""
