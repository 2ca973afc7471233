"""No tasks: lmms-eval before 0.5 wants this package to be there beside `models`."""
