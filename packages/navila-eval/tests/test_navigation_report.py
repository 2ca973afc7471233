"""The HTML report: complete, self-contained, bounded in size."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from navila.actions import Action, parse
from navila.plugins import default_host
from navila.simulation import Embodiment, Episode, Observation
from navila_eval.agents import Agent, ExpertAgent, RandomAgent, wrong_instruction
from navila_eval.benchmark import in_words
from navila_eval.navigation import NavigationTask, evaluate_agent
from navila_eval.navigation_report import ReportSection, write_report
from navila_eval.pictures import floor_of, kept_map
from navila_eval.report_map import draw_map, run_colours
from navila_eval.walk import Walk
from PIL import Image

pytest.importorskip("navila_sim_mesh", reason="needs the plugin navila-sim-mesh")

BODY = Embodiment(name="tiny", width=48, height=48)


def goal_radius(episode: Episode) -> float:
    return episode.goal_radius


class Sighted(Agent[list[str]]):
    """Turns once and stops, with its eyes open; what it says has to be escaped."""

    def __init__(self, name: str = "model", misled: bool = False) -> None:
        self.name = name
        self._misled = misled

    def instruction(self, episode: Episode) -> str:
        return wrong_instruction(0)(episode) if self._misled else episode.instruction

    def begin(self, episode: Episode, simulator: Any) -> list[str]:
        return ["The next action is turn left 30 degree.", "<b>stop</b> & rest"]

    def act(self, states: Sequence[list[str]], observations: Sequence[Observation]) -> list[Action]:
        return [parse(state.pop(0)) for state in states]


@dataclass
class Page(HTMLParser):
    """What of a page the tests look at."""

    articles: list[str | None] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    captions: int = 0
    text: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "article":
            self.articles.append(named.get("class"))
        self.ids.append(named.get("id"))
        self.captions += tag == "figcaption"
        self.addresses += [value for key in ("src", "href", "action", "data") if (value := named.get(key))]
        if tag not in ("img", "meta", "br", "link", "image", "path", "rect", "polyline", "use"):
            self.open_tags.append(tag)

    @property
    def pictures(self) -> list[str]:
        return [address for address in self.addresses if not address.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open_tags:
            assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> list[ReportSection]:
    simulator: Any = default_host().registry("simulator").load("mesh")(embodiment=BODY)  # type: ignore[call-arg]
    folder = tmp_path_factory.mktemp("runs")
    sections = []
    for level in (0, 1):
        task = NavigationTask(
            name="houses",
            split=f"level{level}",
            episodes=simulator.make_episodes(level=level, seed=5, count=3),
            embodiment=BODY,
            max_steps=30,
            success_distance=goal_radius,
        )
        agents = [Sighted(), Sighted("wrong_instruction", misled=True), RandomAgent(0), ExpertAgent(goal_radius)]
        runs = {}
        for agent in agents:
            path = folder / str(level) / agent.name
            identity = {"agent": agent.name}
            evaluate_agent(task, lambda agent=agent: agent, [simulator], path, identity=identity, quiet=True)
            runs[agent.name] = path
        sections.append(ReportSection(title=f"Level {level} <houses>", runs=runs))
    return sections


@pytest.fixture(scope="module")
def page(sections: list[ReportSection], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, sections, title="A & B")
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return path.read_text(encoding="utf-8"), page


def test_every_episode_has_a_card_with_its_instruction(page: tuple[str, Page], sections: list[ReportSection]) -> None:
    _, parsed = page
    assert len(parsed.articles) == 6
    text = "".join(parsed.text)
    for level in (0, 1):
        for number in range(3):
            assert f"houses-{level}-5-{number}" in text
    assert "told: " in text, "the wrong instruction is shown beside the right one"
    assert "A & B" in text


def test_success_and_failure_are_those_of_the_first_agent(
    sections: list[ReportSection], tmp_path: Path, page: tuple[str, Page]
) -> None:
    expert_first = [
        ReportSection(title=s.title, runs={"expert": s.runs["expert"], "random": s.runs["random"]}) for s in sections
    ]
    write_report(tmp_path / "r.html", expert_first, title="t")
    parsed = Page()
    parsed.feed((tmp_path / "r.html").read_text())
    assert parsed.articles == ["success"] * 6
    assert set(page[1].articles) == {"failure"}


def test_the_experts_walk_is_drawn_where_its_path_is_not_on_record(sections: list[ReportSection]) -> None:
    run = sections[0].runs["expert"]
    record = json.loads((run / "episodes.jsonl").read_text().splitlines()[0])
    kept = kept_map(run / "pictures", record["scene_id"], record["positions"])
    assert kept is not None
    assert 'class="taken"' not in draw_map(kept, {"expert": record})
    assert 'class="taken"' in draw_map(kept, {"expert": record | {"gt_locations": []}})


def test_every_run_has_a_colour_of_its_own_and_a_name_that_keeps_its_signs() -> None:
    assert run_colours(["expert", "random"]) == {"expert": "#2ea56a", "random": "#8b93a1"}
    names = ["expert", *(f"model-{number}" for number in range(6))]
    assert len(set(run_colours(names).values())) == len(names)
    assert in_words("houses-pitch=-20-height=0.5") == "houses pitch=-20 height=0.5"


def test_the_page_needs_nothing_but_itself(page: tuple[str, Page]) -> None:
    source, parsed = page
    assert parsed.pictures
    assert all(address.startswith("data:image/jpeg;base64,") for address in parsed.pictures)
    assert all(address[1:] in parsed.ids for address in parsed.addresses if address.startswith("#"))
    outside = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", source)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|fetch\(|XMLHttpRequest", outside)
    assert parsed.open_tags == [], "every tag is closed"


def test_its_pictures_are_images_of_what_was_seen(page: tuple[str, Page]) -> None:
    _, parsed = page
    sizes = []
    for address in parsed.pictures:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            image.load()
            sizes.append(image.size)
    # Two sighted agents, two decisions each, six episodes; and one floor that the six maps share.
    assert sizes.count((48, 48)) == 2 * 2 * 6
    assert len(sizes) == 2 * 2 * 6 + 1
    assert sum(address.startswith("#") for address in parsed.addresses) == 6
    assert parsed.captions == 2 * 2 * 6


def test_what_a_model_says_cannot_become_markup(page: tuple[str, Page]) -> None:
    source, _ = page
    assert "<b>stop</b> & rest" not in source
    assert "&lt;b&gt;stop&lt;/b&gt; &amp; rest" in source


def test_pictures_stay_within_the_budget(
    sections: list[ReportSection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from navila_eval import navigation_report

    write_report(tmp_path / "full.html", sections, title="t")
    monkeypatch.setattr(navigation_report, "PICTURE_BUDGET", 20_000)
    write_report(tmp_path / "small.html", sections, title="t")
    assert (tmp_path / "small.html").stat().st_size < (tmp_path / "full.html").stat().st_size
    parsed = Page()
    parsed.feed((tmp_path / "small.html").read_text())
    assert len(parsed.articles) == 6


def test_a_walk_that_was_not_kept_is_still_told(tmp_path: Path) -> None:
    simulator: Any = default_host().registry("simulator").load("mesh")(embodiment=BODY)  # type: ignore[call-arg]
    task = NavigationTask(
        name="houses",
        split="level0",
        episodes=simulator.make_episodes(level=0, seed=5, count=2),
        embodiment=BODY,
        max_steps=30,
        success_distance=goal_radius,
    )
    evaluate_agent(
        task, lambda: RandomAgent(0), [simulator], tmp_path / "run", identity={}, report_episodes=0, quiet=True
    )
    write_report(tmp_path / "r.html", [ReportSection(title="t", runs={"random": tmp_path / "run"})], title="t")
    parsed = Page()
    parsed.feed((tmp_path / "r.html").read_text())
    assert len(parsed.articles) == 2
    assert parsed.addresses == []
    records = tmp_path / "run" / "episodes.jsonl"
    walks = [json.loads(line) for line in records.read_text().splitlines()]
    walks[1]["goals"] = [[x, y + 3.0, z] for x, y, z in walks[1]["goals"]]
    records.write_text("".join(json.dumps(walk) + "\n" for walk in walks))
    write_report(tmp_path / "r.html", [ReportSection(title="t", runs={"random": tmp_path / "run"})], title="t")
    assert (tmp_path / "r.html").read_text().count(" m, to another storey") == 1


def test_maps_outline_what_can_be_walked() -> None:
    simulator: Any = default_host().registry("simulator").load("mesh")(embodiment=BODY)  # type: ignore[call-arg]
    simulator.reset(simulator.make_episodes(level=0, seed=5, count=1)[0])
    floor, drawn = simulator.top_down_map(), floor_of(simulator)
    assert drawn is not None
    darker = (np.asarray(drawn[0]) < floor.rgb).any(axis=2)
    across = floor.walkable[:, :-1] != floor.walkable[:, 1:]
    down = floor.walkable[:-1] != floor.walkable[1:]
    assert across.any()
    assert darker[:, :-1][across].all()
    assert darker[:-1][down].all()
    assert darker.sum() == np.count_nonzero(np.pad(across, ((0, 0), (0, 1))) | np.pad(down, ((0, 1), (0, 0))))


def test_a_walk_can_be_kept_without_a_map(tmp_path: Path) -> None:
    from navila_eval.pictures import PictureKeeper, kept_frames

    simulator: Any = default_host().registry("simulator").load("mesh")(embodiment=BODY)  # type: ignore[call-arg]
    episode = simulator.make_episodes(level=0, seed=5, count=1)[0]
    simulator.reset(episode)
    floor = simulator.top_down_map()

    def no_map() -> Any:
        raise NotImplementedError

    keeper = PictureKeeper(tmp_path, [episode.episode_id], frames=True)
    walk = Walk(episode, simulator, episode.instruction, 10, 1.0)
    observation = walk.start()
    for answer in (no_map, lambda: None, lambda: replace(floor, resolution=0.0)):
        simulator.top_down_map = answer
        keeper.start(walk)
    keeper.decision(walk, observation)
    assert kept_map(tmp_path, episode.scene_id, walk.positions) is None
    assert list(kept_frames(tmp_path, episode.episode_id)) == [0]
