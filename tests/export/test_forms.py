"""Forms of the graphs: half precision, exact sizes, a camera's resolution, TensorRT 8.5."""

from __future__ import annotations

import math

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import nn

from export.build_engines import export_engine_dir
from export.camera import (
    CameraDecoderStage,
    CameraEncoderStage,
    camera_fit,
    to_camera_matrices,
    to_grid_matrices,
)
from export.engines import OnnxRuntimeStages
from export.errors import UnsupportedModelError
from export.folding import fold
from export.onnx_graphs import GraphForm, tensor_specs, write_graph
from export.options import Options, graph_forms
from export.plain_norms import PlainGroupNorm, PlainLayerNorm, use_plain_norms
from export.precision import InFp32, Precision, cast
from export.recipe import RECIPES
from export.stages import DecoderStage, UnetStage
from fiffdepth_rt import Depth
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.image import to_grid, to_photo
from tests.support.tiny_models import FEW_RESNETS, tiny_checkpoint, tiny_unet, tiny_vae
from training.weights.ours import save_checkpoint
from training.weights.random import LAYOUTS

# --- half precision ---


def attention(q, k, v, *, scale_first):
    """Attention in its inputs' dtype; the scale on Q and K before their product, or on the logits after."""
    scale = 1 / math.sqrt(q.shape[-1])
    if scale_first:
        logits = (q * math.sqrt(scale)) @ (k * math.sqrt(scale)).transpose(-1, -2)
    else:
        logits = (q @ k.transpose(-1, -2)) * scale
    return torch.softmax(logits, dim=-1) @ v


def test_logits_scaled_after_the_product_overflow_fp16_where_ours_do_not():
    q, k, v = (torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    q, k = q.abs() * 50, k.abs() * 50  # as large as SD 2.1's: products of 1e5, beyond float16's 65504
    assert not attention(q.half(), k.half(), v.half(), scale_first=False).isfinite().all()
    ours = attention(q.half(), k.half(), v.half(), scale_first=True)
    assert ours.isfinite().all()
    assert (ours - attention(q, k, v, scale_first=False)).abs().max() <= 0.1


def test_a_precision_computes_in_its_dtype_and_speaks_fp32_at_its_doors():
    stage = DecoderStage(tiny_vae(1)).eval()
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = stage(latent)[1]
        for precision, tolerance in ((Precision.FP16, 0.02), (Precision.BF16, 0.2)):
            ready = cast(stage, precision)
            assert {p.dtype for p in ready.parameters()} == {precision.dtype}
            depth, unclipped = ready(latent)
            assert depth.dtype == unclipped.dtype == torch.float32
            assert 0 < (unclipped - expected).abs().max() <= tolerance
    assert {p.dtype for p in stage.parameters()} == {torch.float32}


def test_layers_kept_in_fp32_cure_an_overflow_that_they_cause():
    stage = UnetStage(tiny_unet(), timestep=0, prompt=torch.randn(1, 2, 12)).eval()
    stage.conv_in.weight.data.mul_(1e6)  # beyond float16; the norms after it take the factor out again
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not cast(stage, Precision.FP16)(latent).isfinite().all()
        expected = cast(stage, Precision.FP32)(latent)
        kept = cast(stage, Precision.BF16, keep_fp32=["conv_in", "down_blocks.0.resnets.*"])
        assert isinstance(kept.conv_in, InFp32) and isinstance(kept.down_blocks[0].resnets[0], InFp32)
        assert not any(isinstance(m, InFp32) for m in kept.down_blocks[0].resnets[0].inner.modules())
        assert (kept(latent) - expected).abs().max() <= 0.1 * expected.std()


def test_a_layer_to_keep_that_is_not_there_names_some_that_are():
    stage = DecoderStage(tiny_vae(1))
    with pytest.raises(UnsupportedModelError, match=r"'nowhere\.\*'.*decoder.conv_in"):
        cast(stage, Precision.FP16, keep_fp32=["nowhere.*"])


# --- exact sizes ---


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("grid_hw", [(72, 104), (64, 64), (8, 40)])
def test_sizes_that_do_not_halve_evenly_are_what_diffusers_computes(levels, grid_hw):
    config = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    unet, prompt = tiny_unet(5, **config), torch.randn(1, 2, 12)
    stage = UnetStage(unet, timestep=0, prompt=prompt).eval()
    stage.fix_size(grid_hw)
    latent = torch.randn(1, 4, grid_hw[0] // 8, grid_hw[1] // 8)
    with torch.no_grad():
        expected = unet(latent, 0, encoder_hidden_states=prompt).sample
        assert (stage(latent) - expected).abs().max() <= 2e-5


# --- TensorRT 8.5 ---


@pytest.mark.parametrize("shape", [(2, 8, 5, 6), (2, 8, 30)])
def test_plain_group_norm_is_group_norm(shape):
    norm, x = nn.GroupNorm(4, 8), torch.randn(shape) * 3 + 5
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    with torch.no_grad():
        assert (PlainGroupNorm(norm)(x) - norm(x)).abs().max() <= 2e-6


def test_plain_layer_norm_is_layer_norm():
    norm, x = nn.LayerNorm(16), torch.randn(2, 7, 16) * 3 + 5
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    with torch.no_grad():
        assert (PlainLayerNorm(norm)(x) - norm(x)).abs().max() <= 2e-6


def test_plain_norms_take_their_statistics_in_fp32():
    norm, x = nn.GroupNorm(1, 4).half(), torch.randn(1, 4, 64, 64).half() * 100
    with torch.no_grad():
        plain = PlainGroupNorm(norm)(x)  # squares of 1e4 summed over 16384: infinite in fp16
        assert plain.isfinite().all()
        assert (plain.float() - norm.float()(x.float())).abs().max() <= 5e-3


def test_every_norm_of_a_stage_is_replaced():
    stage = UnetStage(tiny_unet(), timestep=0, prompt=torch.randn(1, 2, 12))
    use_plain_norms(stage)
    assert not any(isinstance(m, nn.GroupNorm | nn.LayerNorm) for m in stage.modules())


# --- a camera's resolution ---


@pytest.mark.parametrize("camera_hw", [(240, 320), (480, 270), (128, 128), (45, 60)])
def test_the_cameras_matrices_are_the_runtimes_own_resizing(camera_hw):
    fitted = camera_fit(camera_hw, 128)
    picture = np.random.default_rng(1).integers(0, 256, (*camera_hw, 3), dtype=np.uint8)
    rows, columns = to_grid_matrices(fitted)
    ours = np.einsum("hH,HWc,wW->hwc", rows, picture.astype(np.float32), columns, optimize=True)
    theirs = to_grid(picture, fitted).astype(np.float32)
    assert np.abs(ours.clip(0, 255) - theirs).max() <= 1.5  # the host rounds to 8 bits, once per direction

    depth = np.random.default_rng(2).random(fitted.grid_hw, dtype=np.float32)
    rows, columns = to_camera_matrices(fitted)
    assert np.abs(rows @ depth @ columns.T - to_photo(depth, fitted)).max() <= 1e-3


def test_the_cameras_stages_take_and_give_its_resolution():
    fitted, vae = camera_fit((120, 200), 128), tiny_vae(1)
    picture = torch.randint(0, 256, (1, 120, 200, 3), dtype=torch.uint8)
    encoder, decoder = CameraEncoderStage(vae, fitted).eval(), CameraDecoderStage(vae, fitted).eval()
    fold("encoder", encoder), fold("decoder", decoder)
    with torch.no_grad():
        latent = cast(encoder, Precision.BF16)(picture)
        depth, unclipped = decoder(latent)
    assert latent.shape == (1, 4, 16, 16) and depth.shape == unclipped.shape == (1, 120, 200)
    assert depth.min() >= 0 and depth.max() <= 1


# --- names, shapes, choices ---


def test_a_form_says_its_name_and_its_opset():
    fp16 = GraphForm(precision=Precision.FP16)
    assert (fp16.name, fp16.opset) == ("fp16", 18)
    bf16 = GraphForm(precision=Precision.BF16)
    assert (bf16.name, bf16.opset) == ("bf16", 22)
    assert GraphForm(trt85=True, precision=Precision.FP16).name == "fp16-trt8.5"
    assert GraphForm(trt85=True).opset == 16
    assert GraphForm(grid_hw=(480, 640)).name == "fp32-480x640"
    assert GraphForm(grid_hw=(192, 256), camera_hw=(1080, 1920)).name == "fp32-camera-1080x1920"


def test_the_tensors_of_a_camera_form_have_its_size_outside_and_the_grids_inside():
    form = GraphForm(grid_hw=(192, 256), camera_hw=(480, 640))
    (image,), (latent,) = tensor_specs("encoder", form, latent_channels=4)
    assert image.shape == ("batch", 480, 640, 3) and latent.shape == ("batch", 4, 24, 32)
    assert [spec.shape for spec in tensor_specs("decoder", form, latent_channels=4)[1]] == [
        ("batch", 480, 640)
    ] * 2


def test_forms_multiply_precisions_with_sizes_and_add_cameras():
    chosen = graph_forms((Precision.FP32, Precision.FP16), static=((480, 640),), camera=((1080, 1920),))
    assert [form.name for form in chosen] == [
        "fp32-480x640", "fp32-camera-1080x1920", "fp16-480x640", "fp16-camera-1080x1920",
    ]  # fmt: skip
    assert [f.name for f in graph_forms((Precision.FP16,), target="trt8.5")] == ["fp16-trt8.5"]


# --- as graphs ---


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """The decoder of one VAE in three forms, each for 72×104 pixels (a fixed size is traced fastest)."""
    folder = tmp_path_factory.mktemp("graphs")
    stage = DecoderStage(tiny_vae(1, **FEW_RESNETS)).eval()
    fold("decoder", stage)
    for name, form in {
        "fp16": GraphForm(precision=Precision.FP16, grid_hw=(72, 104)),
        "bf16": GraphForm(
            precision=Precision.BF16, grid_hw=(72, 104), keep_fp32=("decoder.decoder.conv_out",)
        ),
        "trt85": GraphForm(precision=Precision.FP16, grid_hw=(72, 104), trt85=True),
    }.items():
        write_graph(
            folder / name, "decoder", stage, form, external_data_above=10_000 if name == "fp16" else 10**9
        )
    return folder, stage


def graph_of(decoders, name):
    return onnx.load(decoders[0] / name / "decoder.onnx")


def weight_types(model):
    return {onnx.TensorProto.DataType.Name(i.data_type) for i in model.graph.initializer if len(i.dims) == 4}


def test_the_precision_lives_in_the_graph(decoders):
    assert weight_types(graph_of(decoders, "fp16")) == {"FLOAT16"}
    assert weight_types(graph_of(decoders, "bf16")) == {"BFLOAT16", "FLOAT"}  # conv_out is kept in fp32
    assert [o.version for o in graph_of(decoders, "bf16").opset_import if not o.domain] == [22]


def test_attention_has_its_scale_on_q_and_k_before_their_product(decoders):
    model = graph_of(decoders, "fp16")
    maker = {output: node for node in model.graph.node for output in node.output}
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    product = maker[softmax.input[0]]
    assert product.op_type == "MatMul"
    assert [maker[i].op_type for i in product.input] == ["Mul", "Mul"]


def test_large_weights_lie_beside_the_graph_and_it_runs(decoders):
    folder, stage = decoders
    assert (folder / "fp16" / "decoder.onnx.data").stat().st_size > 10_000
    latent = np.random.default_rng(0).standard_normal((2, 4, 9, 13)).astype(np.float32)
    found = OnnxRuntimeStages(folder / "fp16", threads=1)("decoder", latent)
    with torch.no_grad():
        expected = stage(torch.from_numpy(latent))[1].numpy()
    assert found.dtype == np.float32 and found.shape == (2, 72, 104)
    assert np.abs(found - expected).max() <= 0.02
    assert expected.std() > 0.05


def test_a_bf16_graph_runs_on_openvino(decoders):
    folder, stage = decoders
    compiled = openvino.Core().compile_model(str(folder / "bf16" / "decoder.onnx"), "CPU")
    latent = np.random.default_rng(0).standard_normal((1, 4, 9, 13)).astype(np.float32)
    found = compiled(latent)["depth_unclipped"]
    with torch.no_grad():
        expected = stage(torch.from_numpy(latent))[1].numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() <= 0.05 * expected.std()


def test_the_form_for_tensorrt_8_5_has_no_norm_that_it_cannot_read_and_computes_the_same(decoders):
    folder, stage = decoders
    model = graph_of(decoders, "trt85")
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"LayerNormalization", "InstanceNormalization", "GroupNormalization"}
    assert [o.version for o in model.opset_import] == [16]
    latent = np.random.default_rng(0).standard_normal((2, 4, 9, 13)).astype(np.float32)
    found = OnnxRuntimeStages(folder / "trt85", threads=1)("decoder", latent)
    with torch.no_grad():
        expected = stage(torch.from_numpy(latent))[1].numpy()
    assert np.abs(found - expected).max() <= 0.02


# --- the whole way, long ---


@pytest.mark.soak
def test_every_form_goes_the_whole_way(tmp_path):
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint())
    forms = [
        GraphForm(precision=p, trt85=t)
        for p in Precision
        for t in (False, True)
        if not (t and p is Precision.BF16)
    ]
    forms += [GraphForm(grid_hw=(72, 104)), GraphForm(camera_hw=(240, 320))]
    options = Options(
        checkpoint=tmp_path / "tiny.safetensors",
        output=tmp_path / "engines",
        forms=tuple(forms),
        size=128,
        plans=False,
        memory=False,
        accept_parity=True,  # random weights amplify half precision's rounding beyond the gates for photos
    )
    manifest = open_engine_dir(export_engine_dir(options)).manifest
    assert len(manifest.graph_sets) == len(forms)
    for row in manifest.parity:
        assert row["passed"] or row["graph_set"].startswith(("fp16", "bf16")), row
        assert row["mean_abs"] <= 0.05 * row["reference_std"], row
    photo = np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for precision, grid_hw in (("fp32-72x104", (72, 104)), ("fp32-camera-240x320", (240, 320))):
        with Depth(tmp_path / "engines", precision=precision, threads=1) as depth:
            assert depth.infer(photo).photo_hw == (200, 300)
            assert depth.grid_for((200, 300)) == grid_hw
    with Depth(tmp_path / "engines", precision="fp32", threads=1) as depth:
        reference = depth.infer(photo).values
    for precision in manifest.graph_sets:  # half precision too, whatever units this CPU has
        with Depth(tmp_path / "engines", backend="openvino", precision=precision, threads=1) as depth:
            found = depth.infer(photo)
        if "-" not in precision:  # on the same grid
            assert np.abs(found.values - reference).mean() <= 0.05 * reference.std(), precision


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["fiffdepth", "genpercept", "lotus-d", "marigold-e2e"])
def test_every_layout_and_recipe_goes_the_whole_way(tmp_path, layout, name):
    from tests.export.test_checkpoint import written
    from tests.export.test_recipes import CONFIG, SIBLINGS

    made = tiny_checkpoint(7, recipe=name, **CONFIG.get(name, {}))
    path, given = written(tmp_path, layout, made, recipe=RECIPES[name])
    target = export_engine_dir(
        Options(
            checkpoint=path, given=given, output=tmp_path / "engines", size=128, plans=False, memory=False
        )
    )
    image = np.random.default_rng(2).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    with Depth(target, threads=1) as depth:
        found = depth.infer(image)
    with torch.no_grad():
        expected = SIBLINGS[name](made, image[None])[0].numpy()
    assert np.abs(found - (np.clip(expected, -1, 1) + 1) / 2).max() <= 1e-4
