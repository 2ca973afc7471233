"""MathVista and MMMU, reasoning about pictures, as benchmarks of navila."""
