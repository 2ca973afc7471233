"""Contracts of vision encoders and projectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from navila.errors import DataError
from navila.testing.contract import ComponentContract, seed_everything

if TYPE_CHECKING:
    from torch import Tensor

    from navila.model.projector import Projector
    from navila.model.vision import VisionEncoder
    from navila.specs import ProjectorSpec, VisionEncoderSpec


class VisionEncoderContract(ComponentContract):
    """Tests every vision encoder passes."""

    kind = "vision-encoder"

    @pytest.fixture
    def images(self, tiny: VisionEncoder) -> Tensor:
        """Two random images (2, 3, H, W)."""
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.rand(2, 3, tiny.image_size, tiny.image_size, generator=generator) * 2 - 1

    def test_tiny_is_small_and_on_the_cpu(self, tiny: VisionEncoder) -> None:
        assert sum(parameter.numel() for parameter in tiny.parameters()) < 5_000_000
        assert tiny.device.type == "cpu"

    def test_features_have_the_declared_shape(self, tiny: VisionEncoder, images: Tensor) -> None:
        import torch

        with torch.no_grad():
            features = tiny.eval()(images)
        assert tuple(features.shape) == (2, tiny.num_tokens, tiny.hidden_size)
        assert features.dtype == tiny.dtype
        assert torch.isfinite(features).all()

    def test_description_states_the_size_it_builds(
        self, component: type[VisionEncoder], spec: VisionEncoderSpec
    ) -> None:
        import torch

        if spec.image_size is None:
            assert spec.num_tokens is None, "a description that states the tokens states the image size too"
            return
        with torch.device("meta"):
            encoder = component(component.default_config(spec.name))
        assert encoder.image_size == spec.image_size
        assert encoder.num_patches == spec.num_tokens
        assert encoder.hidden_size == spec.hidden_size
        if spec.patch_size is not None:
            assert encoder.num_patches == (spec.image_size // spec.patch_size) ** 2
        assert encoder.has_cls_token == spec.has_cls_token

    def test_model_type_is_declared(self, tiny: VisionEncoder, spec: VisionEncoderSpec) -> None:
        assert tiny.config["model_type"] in spec.model_types

    def test_an_image_is_encoded_alike_alone_and_in_a_batch(self, tiny: VisionEncoder, images: Tensor) -> None:
        import torch

        with torch.no_grad():
            together, alone = tiny.eval()(images), tiny(images[1:])
        torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)

    def test_images_of_another_size_are_refused(self, tiny: VisionEncoder, images: Tensor) -> None:
        with pytest.raises(DataError, match=str(tiny.image_size)):
            tiny(images[:, :, 1:])

    def test_what_never_runs_is_never_trained(self, tiny: VisionEncoder, images: Tensor) -> None:
        tiny.set_trainable(True)
        tiny(images).square().mean().backward()
        without = [name for name, p in tiny.named_parameters() if p.requires_grad and p.grad is None]
        tiny.zero_grad()
        tiny.set_trainable(False)
        assert without == []
        assert not any(parameter.requires_grad for parameter in tiny.parameters())

    def test_saved_and_loaded_it_encodes_the_same(self, tiny: VisionEncoder, images: Tensor, tmp_path: Path) -> None:
        import torch

        tiny.save_pretrained(tmp_path)
        options: dict[str, Any] = {"select_layer": tiny.select_layer, "select_feature": tiny.select_feature}
        loaded = type(tiny).from_pretrained(tmp_path, **options)
        state = loaded.state_dict()
        assert list(state) == list(tiny.state_dict())
        with torch.no_grad():
            assert torch.equal(tiny.eval()(images), loaded.eval()(images))


class ProjectorContract(ComponentContract):
    """Tests every projector passes."""

    kind = "projector"
    num_patches: int = 16
    """Patches of an image in these tests: a square number."""

    @pytest.fixture
    def features(self, tiny: Projector) -> Tensor:
        """Random features (2, N, C)."""
        import torch

        return torch.randn(2, self.num_patches, tiny.in_features, generator=torch.Generator().manual_seed(0))

    def test_embeddings_have_the_declared_shape(self, tiny: Projector, features: Tensor) -> None:
        import torch

        with torch.no_grad():
            embeddings = tiny.eval()(features)
        assert tuple(embeddings.shape) == (2, tiny.num_tokens(self.num_patches), tiny.out_features)
        assert torch.isfinite(embeddings).all()

    def test_model_type_is_declared(self, tiny: Projector, spec: ProjectorSpec) -> None:
        assert tiny.config["model_type"] in spec.model_types

    def test_an_image_is_projected_alike_alone_and_in_a_batch(self, tiny: Projector, features: Tensor) -> None:
        import torch

        with torch.no_grad():
            together, alone = tiny.eval()(features), tiny(features[1:])
        torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)

    def test_every_parameter_is_trained(self, tiny: Projector, features: Tensor) -> None:
        tiny(features.requires_grad_()).square().mean().backward()
        without = [name for name, parameter in tiny.named_parameters() if parameter.grad is None]
        tiny.zero_grad()
        assert without == []

    def test_saved_and_loaded_it_projects_the_same(self, tiny: Projector, features: Tensor, tmp_path: Path) -> None:
        import torch

        tiny.save_pretrained(tmp_path)
        seed_everything(1)
        loaded = type(tiny).from_pretrained(tmp_path)
        assert loaded.config == tiny.config
        with torch.no_grad():
            assert torch.equal(tiny.eval()(features), loaded.eval()(features))
