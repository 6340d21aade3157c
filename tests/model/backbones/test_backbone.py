from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import swin_t

from dyzoo.config import BackboneConfig, FPNConfig
from dyzoo.errors import UnknownModelError
from dyzoo.model.backbones import Backbone
from dyzoo.model.fpn import FPN


@pytest.mark.parametrize(
    "name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "mobilevitv2_050", "swinv2_cr_tiny_224"]
)
def test_maps_have_strides_8_16_32_at_a_size_the_model_was_not_made_for(name: str) -> None:
    backbone = Backbone(BackboneConfig(name)).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(2, 3, 96, 160))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 96 // stride, 160 // stride)
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


def test_swin_is_timms_where_every_map_is_whole_windows() -> None:
    """With timm's plain `strict_img_size=False` the shift of the last stage is lost and features differ by ~0.3."""
    torch.manual_seed(0)
    adapter = Backbone(BackboneConfig("swin_tiny_patch4_window7_224")).eval()
    exact = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, img_size=(448, 672)).eval()
    exact.load_state_dict(adapter.model.state_dict())
    image = torch.randn(1, 3, 448, 672)
    with torch.inference_mode():
        for ours, theirs in zip(adapter(image), exact(image)[1:], strict=True):
            torch.testing.assert_close(ours, theirs.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_swin_pads_before_it_shifts() -> None:
    """As torchvision's Swin does, and the detection code that published weights come from; timm shifts first."""
    torch.manual_seed(0)
    theirs = swin_t(weights=None).eval()
    block = theirs.features[5][1]  # a shifted block of the third stage
    ours = Backbone(BackboneConfig("swin_tiny_patch4_window7_224")).eval().model.layers_2.blocks[1]
    names = {"norm1": "norm1", "attn.qkv": "attn.qkv", "attn.proj": "attn.proj", "norm2": "norm2"}
    names |= {"mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2", "attn.relative_position_bias_table": ""}
    own = dict(ours.named_parameters())
    with torch.inference_mode():
        for name, value in block.named_parameters():
            prefix = next(prefix for prefix in names if name.startswith(prefix))
            own[name.replace(prefix, names[prefix]) if names[prefix] else name].copy_(value)
        features = torch.randn(2, 16, 11, 384)
        torch.testing.assert_close(ours(features), block(features), atol=1e-5, rtol=1e-5)


def test_a_norm_of_its_own_for_every_map() -> None:
    for name in ("resnet10t", "swin_tiny_patch4_window7_224"):
        backbone = Backbone(BackboneConfig(name, output_norm=True)).eval()
        with torch.inference_mode():
            maps = backbone(torch.randn(1, 3, 64, 64))
        for level in maps:
            assert level.mean(dim=1).abs().max() < 1e-4
            torch.testing.assert_close(
                level.var(dim=1, unbiased=False), torch.ones_like(level[:, 0]), atol=0.02, rtol=0
            )


def test_weights_from_a_local_file(tmp_path: Path) -> None:
    published = timm.create_model("resnet10t")
    path = tmp_path / "resnet10t.safetensors"
    save_file(published.state_dict(), path)
    backbone = Backbone(BackboneConfig("resnet10t"), pretrained=path)
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, published.state_dict()[name]), name
    with pytest.raises(UnknownModelError, match="are no file"):
        Backbone(BackboneConfig("resnet10t"), pretrained=tmp_path / "absent.pth")


def test_stride_in_1x1_moves_every_bottleneck_stride() -> None:
    backbone = Backbone(BackboneConfig("resnet50", stride_in_1x1=True))
    blocks = [m for m in backbone.modules() if isinstance(m, timm.models.resnet.Bottleneck)]
    assert sum(block.conv1.stride == (2, 2) for block in blocks) == 3
    assert all(block.conv2.stride == (1, 1) for block in blocks)


@pytest.mark.parametrize(("norm", "learns"), [("eval", True), ("frozen", False)])
def test_norms_that_do_not_follow_the_batch(norm: str, learns: bool) -> None:
    backbone = Backbone(BackboneConfig("resnet10t", norm=norm)).train()  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    sum(level.sum() for level in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    assert gradients["model.conv1.0.weight"] is not None
    assert (gradients.get("model.conv1.1.weight") is not None) == learns


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "did you mean resnet"),
        ("vit_tiny_patch16_224", "expected 8, 32 too"),
        (
            "pit_ti_224",
            r"cannot take an image of 96 x 160|has maps of strides \[7, 14, 28\]",
        ),  # the latter of timm 1.0.20
        ("mvitv2_tiny", "cannot take an image of 64 x 1056"),  # whose positions end at the size it was made for
        ("inception_v3", "makes maps of 9 x 17, 4 x 8, 1 x 3 from an image of 96 x 160, expected 12 x 20, 6 x 10"),
    ],
)
def test_an_unfit_backbone_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message) as caught:
        Backbone(BackboneConfig(name))
    assert "\n" not in str(caught.value)


def test_fpn_levels_halve_from_stride_8_to_128() -> None:
    fpn = FPN(FPNConfig(channels=16), [4, 8, 12])
    maps = [torch.randn(1, c, 64 // s, 96 // s) for c, s in ((4, 1), (8, 2), (12, 4))]
    assert [tuple(level.shape) for level in fpn(maps)] == [
        (1, 16, 64, 96),
        (1, 16, 32, 48),
        (1, 16, 16, 24),
        (1, 16, 8, 12),
        (1, 16, 4, 6),
    ]


def test_a_pyramid_from_stride_4_with_a_pooled_p6() -> None:
    config = FPNConfig(channels=16, finest_stride=4, top="pool")
    fpn = FPN(config, [4, 4, 8, 12])
    maps = [torch.randn(1, c, 64 // s, 96 // s) for c, s in ((4, 1), (4, 2), (8, 4), (12, 8))]
    levels = fpn(maps)
    assert [64 // level.shape[2] * 4 for level in levels] == list(config.strides_px) == [4, 8, 16, 32, 64]
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


def test_relu_before_p7_changes_p7_only() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, 4, 32 // s, 32 // s) for s in (1, 2, 4)]
    with_relu = FPN(FPNConfig(channels=8, relu_before_p7=True), [4, 4, 4])
    without = FPN(FPNConfig(channels=8, relu_before_p7=False), [4, 4, 4])
    without.load_state_dict(with_relu.state_dict())
    pairs = list(zip(with_relu(maps), without(maps), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs[:4])
    assert not torch.equal(*pairs[4])


def test_levels_of_one_pixel_have_whole_gradients_in_bfloat16() -> None:
    """Memory of an earlier NaN must not show through in a gradient that nothing was added to."""
    fpn = FPN(FPNConfig(channels=96), [8, 8, 8])
    for _ in range(40):
        maps = [torch.randn(3, 8, 32 // s, 32 // s) for s in (4, 8, 16)]
        for parameter in fpn.parameters():
            parameter.grad = None
        for dtype in (torch.float32, torch.bfloat16):
            torch.full((96 * 96 * 9,), float("nan"), dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            levels = fpn(maps)
        sum(level.float().sum() for level in levels).backward()
        assert all(bool(parameter.grad.isfinite().all()) for parameter in fpn.parameters())


def test_an_unknown_tag_of_timms_weights_is_named() -> None:
    with pytest.raises(UnknownModelError, match=r"resnet50\.zzz") as caught:
        Backbone(BackboneConfig("resnet50.zzz"), pretrained=True)
    assert "\n" not in str(caught.value)
