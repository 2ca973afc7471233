"""The model `navila` of lmms-eval."""

from __future__ import annotations

import importlib
from typing import Any

#: As lmms-eval before 0.5 finds it: module below this package -> class in it.
AVAILABLE_MODELS = {"navila": "Navila"}


def manifest() -> Any:
    """As later ones find it: an `lmms_eval.models.registry_v2.ModelManifest`."""
    # No dependency (see pyproject.toml), so no import statement: only lmms-eval itself calls this.
    registry = importlib.import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(model_id="navila", simple_class_path=f"{__name__}.navila.Navila")
