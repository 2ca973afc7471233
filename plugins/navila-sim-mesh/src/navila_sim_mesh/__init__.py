"""Embedded navigation simulator: procedural houses and any GLB/PLY scan, ray-cast on the CPU."""
