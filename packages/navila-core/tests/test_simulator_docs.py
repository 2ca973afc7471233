"""The simulator written out in the documentation passes its contract as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from navila.simulation import Episode
from navila.testing import SimulatorContract

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "simulators.md"


class TestMyHall(SimulatorContract):
    name = "my-hall"

    @pytest.fixture(autouse=True)
    def plugin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not PAGE.is_file():
            pytest.skip("the documentation is not beside this package")
        source = re.search(r'```python\n("""my_hall\.py.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert source is not None
        (tmp_path / "my_hall.py").write_text(source[1], encoding="utf-8")
        monkeypatch.setenv("NAVILA_PLUGINS", f"no:*,{tmp_path / 'my_hall.py'}")

    @pytest.fixture
    def episode(self) -> Episode:
        return Episode(
            episode_id="1",
            scene_id="hall",
            start_position=(0.0, 0.0, 0.0),
            start_rotation=(0.0, 0.0, 0.0, 1.0),
            goals=((3.0, 0.0, 2.0),),
            goal_radius=1.0,
        )
