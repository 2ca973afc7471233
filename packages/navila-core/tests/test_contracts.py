"""The contract classes themselves: complete, not to be weakened, and failed by what breaks them."""

from __future__ import annotations

import runpy
import textwrap
from pathlib import Path

import navila.testing
import pytest
from navila.kinds import KINDS
from navila.testing import (
    BenchmarkContract,
    CallbackContract,
    CommandContract,
    ComponentContract,
    ConversationContract,
    DatasetContract,
    LLMContract,
    ProjectorContract,
    SimulatorContract,
    VisionEncoderContract,
)

pytest_plugins = ["pytester"]

# Removing a test from a contract weakens every plugin's check: it has to be removed here too.
TESTS: dict[type[ComponentContract], set[str]] = {
    ComponentContract: {
        "test_listing_it_imports_nothing_heavy",
        "test_description_is_well_formed",
        "test_every_name_leads_to_it",
        "test_target_implements_the_interface",
    },
    LLMContract: {
        "test_tiny_is_small_and_on_the_cpu",
        "test_model_type_is_declared",
        "test_declared_conversations_exist",
        "test_logits_have_the_declared_shape",
        "test_tokens_and_their_embeddings_are_the_same_input",
        "test_no_position_sees_a_later_one",
        "test_padding_in_front_changes_nothing",
        "test_saved_and_loaded_it_predicts_the_same",
        "test_images_are_scaled_like_text",
        "test_packed_samples_do_not_see_each_other",
        "test_branches_of_a_row_have_the_logits_of_separate_samples",
        "test_answers_in_a_batch_are_those_of_single_prompts",
        "test_generation_continues_what_the_logits_say",
        "test_training_lowers_the_loss",
    },
    VisionEncoderContract: {
        "test_tiny_is_small_and_on_the_cpu",
        "test_features_have_the_declared_shape",
        "test_description_states_the_size_it_builds",
        "test_model_type_is_declared",
        "test_an_image_is_encoded_alike_alone_and_in_a_batch",
        "test_images_of_another_size_are_refused",
        "test_what_never_runs_is_never_trained",
        "test_saved_and_loaded_it_encodes_the_same",
    },
    ProjectorContract: {
        "test_embeddings_have_the_declared_shape",
        "test_model_type_is_declared",
        "test_an_image_is_projected_alike_alone_and_in_a_batch",
        "test_every_parameter_is_trained",
        "test_saved_and_loaded_it_projects_the_same",
    },
    ConversationContract: {
        "test_it_is_found_by_its_name",
        "test_the_spans_are_the_prompt",
        "test_only_the_answers_are_supervised",
        "test_an_answer_continues_the_open_slot",
        "test_an_answer_ends_with_a_stop_string",
        "test_a_dialogue_it_cannot_render_is_refused",
    },
    DatasetContract: {
        "test_it_yields_samples",
        "test_a_record_reads_the_same_twice",
        "test_its_media_exist_and_decode",
        "test_groups_are_those_of_the_samples",
        "test_there_is_nothing_past_its_end",
        "test_a_missing_folder_is_one_sentence",
        "test_a_worker_process_reads_the_same",
    },
    BenchmarkContract: {
        "test_splits_and_metrics_are_declared",
        "test_its_simulator_is_registered",
        "test_a_run_reports_the_declared_numbers",
        "test_equal_seeds_give_equal_numbers",
        "test_a_finished_run_is_not_done_again",
    },
    SimulatorContract: {
        "test_an_observation_has_the_declared_shape",
        "test_an_episode_starts_where_it_says",
        "test_equal_actions_give_equal_observations",
        "test_a_full_turn_ends_where_it_began",
        "test_left_turns_by_the_declared_angle_and_right_turns_back",
        "test_forward_moves_along_the_view_by_the_declared_step",
        "test_stop_ends_the_episode",
        "test_a_snapshot_is_returned_to_exactly",
        "test_the_shortest_path_is_as_long_as_the_geodesic_distance",
        "test_geodesic_distance_is_a_distance",
        "test_the_expert_reaches_the_goal",
        "test_the_map_shows_where_the_agent_stands",
        "test_equal_seeds_make_equal_episodes",
    },
    CallbackContract: {"test_a_training_runs_with_it"},
    CommandContract: {
        "test_help_is_shown_without_heavy_imports",
        "test_help_says_what_it_does",
        "test_an_unknown_option_is_refused",
    },
}


@pytest.mark.parametrize("contract", TESTS, ids=lambda contract: contract.__name__)
def test_a_contract_has_all_its_tests(contract: type[ComponentContract]) -> None:
    assert {name for name in vars(contract) if name.startswith("test_")} == TESTS[contract]


def test_there_is_a_contract_a_kind() -> None:
    contracts = [getattr(navila.testing, name) for name in navila.testing.__all__ if name != "ComponentContract"]
    assert {contract.kind for contract in contracts} == set(KINDS)
    assert set(TESTS) == {ComponentContract, *contracts}


@pytest.mark.parametrize("replacement", [None, lambda self: None])
def test_a_subclass_cannot_replace_a_test(replacement: object) -> None:
    with pytest.raises(TypeError, match=r"replaces test_stop_ends_the_episode of SimulatorContract"):
        type("TestMine", (SimulatorContract,), {"name": "mesh", "test_stop_ends_the_episode": replacement})


def test_a_subclass_cannot_replace_a_test_from_a_class_further_down() -> None:
    class Mine(SimulatorContract):
        """A contract that a family of simulators shares."""

        def test_more(self) -> None: ...

    with pytest.raises(TypeError, match="test_every_name_leads_to_it"):
        type("TestMine", (Mine,), {"test_every_name_leads_to_it": None})


PLUGIN = """
from navila import hookimpl
from navila.specs import CommandSpec, ConversationSpec

{imports}

@hookimpl
def navila_conversations():
    yield ConversationSpec(name="mine", target="navila.templates:llama_3", summary="{summary}")
"""

CONTRACT = """
from navila.testing import ConversationContract

class TestMine(ConversationContract):
    name = "mine"
"""


def test_a_component_that_breaks_the_contract_fails_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(mine=PLUGIN.format(imports="", summary="two\\nlines"))
    pytester.makepyfile(test_mine=CONTRACT)
    monkeypatch.setenv("NAVILA_PLUGINS", f"no:*,{pytester.path / 'mine.py'}")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines_random(
        ["*FAILED*test_description_is_well_formed*", "*FAILED*test_it_is_found_by_its_name*"]
    )
    result.assert_outcomes(passed=8, failed=2)


def test_a_plugin_that_imports_something_heavy_to_be_listed_fails_the_contract(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(mine=PLUGIN.format(imports="import numpy", summary="a template"))
    pytester.makepyfile(test_mine=CONTRACT)
    monkeypatch.setenv("NAVILA_PLUGINS", f"no:*,{pytester.path / 'mine.py'}")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "heavy")
    result.assert_outcomes(failed=1, deselected=9)
    result.stdout.fnmatch_lines(["*numpy*"])


def test_a_contract_without_a_name_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=textwrap.dedent(CONTRACT).replace('name = "mine"', "pass"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "well_formed")
    result.stdout.fnmatch_lines(["*set TestMine.name to the component's registered name*"])
    assert result.ret == 1


def test_the_documentation_shows_a_contract_that_runs(tmp_path: Path) -> None:
    example = textwrap.dedent((navila.testing.__doc__ or "").partition("::\n")[2].rpartition("A subclass")[0])
    path = tmp_path / "test_mesh.py"
    path.write_text(example)
    assert issubclass(runpy.run_path(str(path))["TestMesh"], SimulatorContract)
