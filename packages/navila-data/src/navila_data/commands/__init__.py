"""The commands of `navila data`, one module each."""
