"""Contracts of language models and conversation templates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from navila.conversation import ConversationTemplate, Style, get_template
from navila.errors import NavilaError
from navila.testing.contract import ComponentContract

if TYPE_CHECKING:
    from torch import Tensor

    from navila.model.llm import LLMBackend
    from navila.specs import LLMSpec

QUESTION = "<image>\nWhere is the sofa?"
ANSWER = "Behind the blue table."
_NO_DIALOGUE = {Style.AUTO: "its text is in the tokenizer", Style.PLAIN: "it holds an image and its caption"}


class LLMContract(ComponentContract):
    """Tests every language-model backend passes. Its `tiny()` is a transformers model."""

    kind = "llm"

    @pytest.fixture
    def embeds(self, tiny: Any) -> Tensor:
        """Random input embeddings (2, 6, D)."""
        import torch

        size = tiny.get_input_embeddings().embedding_dim
        return torch.randn(2, 6, size, generator=torch.Generator().manual_seed(0))

    def test_tiny_is_small_and_on_the_cpu(self, tiny: Any) -> None:
        assert sum(parameter.numel() for parameter in tiny.parameters()) < 5_000_000
        assert {parameter.device.type for parameter in tiny.parameters()} == {"cpu"}

    def test_model_type_is_declared(self, tiny: Any, spec: LLMSpec) -> None:
        assert tiny.config.model_type in spec.model_types

    def test_declared_conversations_exist(self, spec: LLMSpec) -> None:
        for name in spec.conversations:
            get_template(name)

    def test_logits_have_the_declared_shape(self, tiny: Any, embeds: Tensor) -> None:
        import torch

        with torch.no_grad():
            logits = tiny.eval()(inputs_embeds=embeds).logits
        assert tuple(logits.shape) == (2, 6, tiny.get_input_embeddings().num_embeddings)
        assert torch.isfinite(logits).all()

    def test_tokens_and_their_embeddings_are_the_same_input(self, tiny: Any) -> None:
        import torch

        ids = torch.tensor([[1, 2, 3, 4]])
        with torch.no_grad():
            by_ids = tiny.eval()(input_ids=ids).logits
            by_embeds = tiny(inputs_embeds=tiny.get_input_embeddings()(ids)).logits
        torch.testing.assert_close(by_ids, by_embeds)

    def test_no_position_sees_a_later_one(self, tiny: Any, embeds: Tensor) -> None:
        import torch

        changed = embeds.clone()
        changed[:, -1] += 1
        with torch.no_grad():
            before, after = tiny.eval()(inputs_embeds=embeds).logits, tiny(inputs_embeds=changed).logits
        torch.testing.assert_close(before[:, :-1], after[:, :-1], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(before[:, -1], after[:, -1])

    def test_padding_in_front_changes_nothing(self, tiny: Any, embeds: Tensor) -> None:
        import torch

        mask = torch.ones(2, 6, dtype=torch.long)
        mask[:, :2] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            padded = tiny.eval()(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[:, 2:]
            plain = tiny(inputs_embeds=embeds[:, 2:]).logits
        torch.testing.assert_close(padded, plain, atol=1e-4, rtol=1e-4)

    def test_saved_and_loaded_it_predicts_the_same(
        self, component: type[LLMBackend], tiny: Any, embeds: Tensor, tmp_path: Path
    ) -> None:
        import json

        import torch

        component.save_pretrained(tiny, tmp_path, {"a_key_of_tomorrow": 1})
        attention = tiny.config._attn_implementation
        loaded: Any = component.from_pretrained(tmp_path, attn_implementation=attention)
        with torch.no_grad():
            assert torch.equal(tiny.eval()(inputs_embeds=embeds).logits, loaded.eval()(inputs_embeds=embeds).logits)
        assert json.loads((tmp_path / "config.json").read_text())["a_key_of_tomorrow"] == 1

    # -- behind a vision side, as training and navigation drive it -----------------------------------------------------

    @pytest.fixture
    def model(self, tiny: Any) -> Any:
        """The tiny model in a composed one, with weights large enough for what is attended to to matter."""
        import torch

        from navila.testing.composed import composed

        with torch.no_grad():
            for parameter in tiny.parameters():
                parameter.mul_(3 if parameter.ndim > 1 else 1)
        return composed(tiny)

    @pytest.fixture
    def rows(self, model: Any) -> list[dict[str, Any]]:
        """Three samples of different length, each with an image; longer than a tiny model's sliding window."""
        import torch

        random = torch.Generator().manual_seed(1)
        width, words = model.mm_projector.out_features, model.get_input_embeddings().weight.shape[0]
        beginning = torch.tensor([5, 6, -200, 7, 8])
        scale = model.get_input_embeddings().weight.detach().std()
        features = torch.randn(1, model.tokens_per_image, width, generator=random) * scale
        ends = [torch.randint(3, words, (length,), generator=random) for length in (9, 4, 13)]
        return [{"input_ids": torch.cat([beginning, end])[None], "image_features": features} for end in ends]

    def test_images_are_scaled_like_text(self, model: Any) -> None:
        """The embedding of a token gives, as the feature of an image, what the token gives."""
        import torch

        ids = torch.tensor([[5, 6, 7, 8, 9]])
        features = torch.nn.functional.embedding(ids[:, 2:], model.get_input_embeddings().weight)
        with torch.no_grad():
            by_ids = model(ids).logits
            by_features = model(torch.tensor([[5, 6, -200]]), image_features=features).logits
        torch.testing.assert_close(by_ids, by_features)

    def test_packed_samples_do_not_see_each_other(self, model: Any, rows: list[dict[str, Any]]) -> None:
        import torch

        ids = torch.cat([row["input_ids"] for row in rows], 1)
        positions = torch.cat([torch.arange(row["input_ids"].shape[1]) for row in rows])[None]
        features = torch.cat([row["image_features"] for row in rows])
        with torch.no_grad():
            packed = model(ids, image_features=features, position_ids=positions).logits
            alone = torch.cat([model(**row).logits for row in rows], 1)
        torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)

    def test_branches_of_a_row_have_the_logits_of_separate_samples(
        self, model: Any, rows: list[dict[str, Any]]
    ) -> None:
        import torch

        ends = [row["input_ids"][:, 5:] for row in rows]
        ids = torch.cat([rows[0]["input_ids"][:, :5], *ends], 1)
        branches = torch.cat([torch.zeros(5), *(torch.full((end.shape[1],), k + 1) for k, end in enumerate(ends))])
        with torch.no_grad():
            together = model(
                ids, image_features=rows[0]["image_features"], branch_ids=branches.long()[None]
            ).logits.split([4 + model.tokens_per_image, *(end.shape[1] for end in ends)], 1)
            for row, end, got in zip(rows, ends, together[1:], strict=True):
                alone = model(**row).logits[:, -end.shape[1] :]
                torch.testing.assert_close(got, alone, atol=1e-4, rtol=1e-4)

    def test_answers_in_a_batch_are_those_of_single_prompts(self, model: Any, rows: list[dict[str, Any]]) -> None:
        import torch

        longest = max(row["input_ids"].shape[1] for row in rows)
        ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest)
        for number, row in enumerate(rows):
            length = row["input_ids"].shape[1]
            ids[number, :length], mask[number, :length] = row["input_ids"][0], 1
        features = torch.cat([row["image_features"] for row in rows])
        options: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": []}
        together = model.generate(ids, image_features=features, attention_mask=mask, **options)
        assert tuple(together.shape) == (len(rows), 8)
        for row, answer in zip(rows, together, strict=True):
            assert model.generate(**row, **options)[0].tolist() == answer.tolist()

    def test_generation_continues_what_the_logits_say(self, model: Any, rows: list[dict[str, Any]]) -> None:
        import torch

        answer = model.generate(**rows[2], max_new_tokens=6, eos_token_id=[])
        whole = torch.cat([rows[2]["input_ids"], answer], 1)
        with torch.no_grad():
            logits = model(whole, image_features=rows[2]["image_features"]).logits
        assert logits[0, -7:-1].argmax(-1).tolist() == answer[0].tolist()

    def test_training_lowers_the_loss(self, model: Any, rows: list[dict[str, Any]]) -> None:
        import torch

        model.train()
        row = rows[0]
        labels = row["input_ids"].masked_fill(row["input_ids"] < 0, -100)
        optimiser = torch.optim.SGD(model.llm.parameters(), lr=1e-3)
        losses = []
        for _ in range(4):
            loss = model(**row, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            grads = [parameter.grad for parameter in model.llm.parameters() if parameter.grad is not None]
            assert grads
            assert all(torch.isfinite(grad).all() for grad in grads)
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]


class ConversationContract(ComponentContract):
    """Tests every conversation template passes."""

    kind = "conversation"

    @pytest.fixture
    def rendered(self, component: ConversationTemplate) -> ConversationTemplate:
        """The template, where it renders dialogues by itself."""
        if component.style in _NO_DIALOGUE:
            pytest.skip(f"{_NO_DIALOGUE[component.style]}: there is no dialogue to render")
        return component

    def test_it_is_found_by_its_name(self, component: ConversationTemplate) -> None:
        assert component.name == self.name
        for name in (component.name, *component.aliases):
            assert get_template(name) == component

    def test_the_spans_are_the_prompt(self, rendered: ConversationTemplate) -> None:
        messages = [("user", QUESTION), ("assistant", ANSWER), ("user", "And the door?"), ("assistant", "Left.")]
        assert "".join(span.text for span in rendered.spans(messages)) == rendered.render(messages)

    def test_only_the_answers_are_supervised(self, rendered: ConversationTemplate) -> None:
        spans = rendered.spans([("user", QUESTION), ("assistant", ANSWER)])
        supervised = "".join(span.text for span in spans if span.supervised)
        assert ANSWER in supervised
        assert "sofa" not in supervised

    def test_an_answer_continues_the_open_slot(self, rendered: ConversationTemplate) -> None:
        opened = rendered.render([("user", QUESTION), ("assistant", None)])
        answered = rendered.render([("user", QUESTION), ("assistant", ANSWER)])
        assert opened.endswith(rendered.generation_prompt)
        assert answered.startswith(opened.rstrip())

    def test_an_answer_ends_with_a_stop_string(self, rendered: ConversationTemplate) -> None:
        text = rendered.render([("user", QUESTION), ("assistant", ANSWER)])
        after = text[text.rindex(ANSWER) + len(ANSWER) :].lstrip(" ")
        assert after.startswith(tuple(stop.lstrip(" ") for stop in rendered.stop_strings))

    def test_a_dialogue_it_cannot_render_is_refused(self, component: ConversationTemplate) -> None:
        messages = [("user", QUESTION), ("assistant", ANSWER)]
        if component.style in _NO_DIALOGUE:
            with pytest.raises(NavilaError):
                component.render(messages)
        else:
            assert ANSWER in component.render(messages)
