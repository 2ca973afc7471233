"""What the leaderboards of R2R-CE and RxR-CE take: functions of recorded walks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from navila.simulation import yaw_of
from navila_eval.navigation_metrics import without_repeats
from navila_eval.walk import Record


def r2r_predictions(records: Sequence[Record]) -> str:
    """JSON of every pose of every episode: position, heading in radians (0 along -z, left positive), and STOP."""
    walks = {}
    for record in records:
        poses = zip(record["positions"], record["rotations"], strict=True)
        stops = [False, *(primitive == 0 for primitive in record["primitives"])]
        walks[record["episode_id"]] = [
            {"position": list(position), "heading": yaw_of(rotation), "stop": stop}
            for (position, rotation), stop in zip(poses, stops, strict=False)
        ]
    return json.dumps(walks) + "\n"


def rxr_predictions(records: Sequence[Record], instruction_ids: Mapping[str, Any]) -> str:
    """JSON lines of the positions of every walk, without consecutive equal ones, sorted by `instruction_id`."""
    lines = []
    for record in records:
        identity = instruction_ids.get(record["episode_id"]) or record["episode_id"]
        number = int(identity) if str(identity).isdigit() else identity
        lines.append({"instruction_id": number, "path": without_repeats(record["positions"])})
    lines.sort(key=lambda line: (isinstance(line["instruction_id"], str), line["instruction_id"]))
    return "".join(json.dumps(line) + "\n" for line in lines)
