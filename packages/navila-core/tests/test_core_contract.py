"""Core's own components pass the contracts of their kinds, as everybody's do."""

from navila.kinds import KINDS
from navila.templates import TEMPLATES
from navila.testing import CommandContract, ConversationContract

for template in TEMPLATES:
    title = f"TestTemplate_{template.name.replace('-', '_')}"
    globals()[title] = type(title, (ConversationContract,), {"name": template.name, "__module__": __name__})

for command in ("plugins", "infer", "navigate", *(kind.command for kind in KINDS.values())):
    title = f"TestCommand_{command}"
    globals()[title] = type(title, (CommandContract,), {"name": command, "__module__": __name__})
