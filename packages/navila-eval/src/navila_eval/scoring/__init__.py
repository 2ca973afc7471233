"""Scorers of benchmarks: pure functions of predictions and references, standard library only.

Where published scorers disagree, each is a profile with a name. What a function takes is text as the model wrote it;
None is a missing prediction and scores like an empty one.
"""
