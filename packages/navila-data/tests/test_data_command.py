"""`navila data` keeps the contract of commands."""

from navila.testing import CommandContract


class TestData(CommandContract):
    name = "data"
