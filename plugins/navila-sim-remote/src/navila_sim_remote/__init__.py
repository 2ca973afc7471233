"""Simulators in another process, Python or machine."""
