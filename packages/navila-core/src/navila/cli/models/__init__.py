"""The commands of `navila model`, one module each."""
