"""What a training will take, told before it starts: memory of a GPU, the longest sample that fits, speed.

`blueprint` knows the model from the configs of its parts, `activations` runs its layers on tensors without values,
`engines` says what of weights, gradients and optimizer a GPU holds, and `plan` puts them together.
"""

from navila_train.planning.plan import Plan, make_plan, tell_plan

__all__ = ["Plan", "make_plan", "tell_plan"]
