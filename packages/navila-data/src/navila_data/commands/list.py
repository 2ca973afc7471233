"""`navila data list`: every dataset known, and whether it is there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from navila_data.listing import ListedDataset


@click.command("list")
@click.option("--data_path", "--data-path", type=click.Path(path_type=Path), help="Folder of registered datasets.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(data_path: Path | None, as_json: bool) -> None:
    """Datasets that a mixture can name: those of plugins, then those of datasets.yaml.

    Samples are counted where a dataset was opened before. What has no folder of its own is written FORMAT:FOLDER.
    """
    from navila.cli.tables import table
    from navila.errors import ConfigError

    from navila_data.listing import list_datasets

    if data_path is not None and not data_path.is_dir():
        raise ConfigError(f"The folder {data_path} does not exist: check --data_path.")
    listed = list_datasets(data_path)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in listed], indent=2))
        return
    rows = [
        (
            each.name,
            each.kind,
            {True: "yes", False: "no", None: "-"}[each.present],
            "-" if each.samples is None else f"{each.samples}",
            each.origin,
            _where(each),
        )
        for each in listed
    ]
    click.echo(table(("NAME", "KIND", "PRESENT", "SAMPLES", "FROM", "FOLDER, MIXTURE OR EXPECTED FILES"), rows))


def _where(each: ListedDataset) -> str:
    if each.kind == "mixture":
        return each.format
    return each.folder if each.format != each.name else "; ".join(each.expected)
