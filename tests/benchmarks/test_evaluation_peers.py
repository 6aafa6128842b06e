"""Promises of benchmarks/evaluation/peers/: each library's models, with random weights of small width, are
scored."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import (
    AutoModelForDepthEstimation,
    BeitConfig,
    BertConfig,
    BertModel,
    DPTConfig,
    DPTForDepthEstimation,
    GLPNConfig,
    GLPNForDepthEstimation,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil

from benchmarks import accuracy
from benchmarks.evaluation.methods import Photo
from benchmarks.evaluation.peers import PeerChoice, weights_sha256
from benchmarks.rows.peers import depth_pro, marigold
from tests.support import tiny_sets
from tests.support.tiny_sets import ETH3D
from tests.support.tiny_teachers import save_depth_anything
from training.alignment import AlignmentSpace
from training.data.samples import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)


def photo(*, at_protocol_size: bool = True) -> Photo:
    return Photo(
        set="x", name="a", pixels=PIXELS, full_hw=(48, 72), prediction="a", at_protocol_size=at_protocol_size
    )


def save_dpt(folder: Path) -> None:
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        backbone_out_indices=[0, 1, 2, 3],
        image_size=32,
        patch_size=8,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_glpn(folder: Path) -> None:
    torch.manual_seed(0)
    config = GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    )
    GLPNForDepthEstimation(config).save_pretrained(folder)
    GLPNImageProcessorPil().save_pretrained(folder)


def save_zoedepth(folder: Path) -> None:
    torch.manual_seed(0)
    trunk = BeitConfig(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = ZoeDepthConfig(
        backbone_config=trunk,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    )
    ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    said = {"image_processor_type": "ZoeDepthImageProcessor", "size": size, "ensure_multiple_of": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def save_depth_pro(folder: Path) -> None:
    torch.manual_seed(0)
    network = depth_pro(0.02)
    network.fov_model.head.layers[-1].bias.data.fill_(60.0)  # degrees; as initialised, it is 0
    network.save_pretrained(folder)
    side = 4 * network.config.patch_size  # as 1536 px are 4 patches of 384
    said = {"image_processor_type": "DepthProImageProcessor", "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def torchvision_fits() -> bool:
    try:
        importlib.import_module("torchvision.transforms.v2.functional")
    except (ImportError, RuntimeError):
        return False
    return True


TORCHVISION = torchvision_fits()
WITH_TORCHVISION = pytest.mark.skipif(not TORCHVISION, reason="no torchvision that fits torch is installed")


def save_metric_depth_anything(folder: Path) -> None:
    save_depth_anything(folder, depth_estimation_type="metric", max_depth=20)


@pytest.mark.parametrize(
    ("save", "space"),
    [
        (save_depth_anything, AlignmentSpace.DISPARITY),
        (save_metric_depth_anything, AlignmentSpace.DEPTH),
        (save_dpt, AlignmentSpace.DISPARITY),
        (save_glpn, AlignmentSpace.DEPTH),
        pytest.param(save_zoedepth, AlignmentSpace.DEPTH, marks=WITH_TORCHVISION),
        pytest.param(save_depth_pro, AlignmentSpace.DEPTH, marks=WITH_TORCHVISION),
    ],
    ids=["Depth Anything", "Depth Anything, metric", "DPT", "GLPN", "ZoeDepth", "Depth Pro"],
)
def test_a_model_of_transformers_gives_what_its_own_pipeline_gives(save, space, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor, pipeline

    folder = tmp_path / "tiny"
    save(folder)
    method = PeerChoice(which=str(folder)).open()
    assert (method.name, method.space) == ("tiny", space)
    found = method.predict(photo())
    theirs = pipeline(
        "depth-estimation",
        model=AutoModelForDepthEstimation.from_pretrained(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder),
    )(Image.fromarray(PIXELS))["predicted_depth"].numpy()
    assert found.dtype == np.float32 and found.shape == (48, 72)
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(TORCHVISION, reason="torchvision is installed, and these models open")
@pytest.mark.parametrize(
    ("save", "name"),
    [(save_zoedepth, "ZoeDepth"), (save_depth_pro, "Depth Pro")],
    ids=["ZoeDepth", "Depth Pro"],
)
def test_a_model_that_needs_torchvision_says_which_one_to_install(save, name: str, tmp_path: Path) -> None:
    save(tmp_path / "tiny")
    with pytest.raises(DataError, match=f"^{name} of transformers .* install the one that belongs to torch"):
        PeerChoice(which=str(tmp_path / "tiny")).open()


def test_depth_anything_3_is_scored_by_its_maps_in_files(tmp_path: Path) -> None:
    """Its folder, as its own library saves it, says no model_type."""
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "da3-large", "config": {}}))
    with pytest.raises(DataError, match=r"no depth estimator .* --predictions DIR --space SPACE") as failed:
        PeerChoice(which=str(tmp_path)).open()
    assert "model_type" in str(failed.value)


def test_another_space_is_taken_where_it_is_said(tmp_path: Path) -> None:
    save_depth_anything(tmp_path)
    method = PeerChoice(which=str(tmp_path), space=AlignmentSpace.LOG_DEPTH).open()
    assert method.space is AlignmentSpace.LOG_DEPTH


@pytest.fixture(scope="module")
def marigold_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """diffusers' own pipeline with random weights, saved as it saves itself; the prompt by a tiny text
    encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from benchmarks.rows.peers import PROMPT_WIDTH

    folder = tmp_path_factory.mktemp("peers") / "marigold"
    torch.manual_seed(0)
    pipeline = marigold(0.1, steps=1, lcm=False)
    words = tmp_path_factory.mktemp("words")
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    pipeline.register_modules(
        tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=77),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=3,
                hidden_size=PROMPT_WIDTH,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                bos_token_id=0,
                eos_token_id=1,
            )
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


def test_marigold_of_diffusers_is_seeded_and_says_its_space(marigold_folder: Path) -> None:
    method = PeerChoice(which=str(marigold_folder)).open()
    assert method.space is AlignmentSpace.DEPTH and method.choices["seed"] == 1234
    first, again = method.predict(photo()), method.predict(photo())
    assert method.key == PeerChoice(which=str(marigold_folder)).open().key
    assert method.choices["model_sha256"] == weights_sha256(str(marigold_folder), None)
    assert first.shape == (48, 72) and 0 <= first.min() <= first.max() <= 1
    assert np.array_equal(first, again) and first.std() > 0


def test_a_peer_is_scored_through_the_command_line_and_kept_by_its_weights(tmp_path: Path) -> None:
    save_depth_anything(tmp_path / "da")
    tiny_sets.write(ETH3D, tmp_path)
    words = ["--data", tmp_path, "--datasets", "eth3d", "--subset", "--model", tmp_path / "da"]
    words += ["--out", tmp_path / "out", "--keep", tmp_path / "kept"]
    ended = CliRunner().invoke(accuracy.main, [str(word) for word in words])
    assert ended.exit_code == 0, ended.output
    (result,) = json.loads((tmp_path / "out" / "result.json").read_text())["scores"]["marigold"]["eth3d"]
    assert result["method"] == "da" and result["choices"]["aligned_in"] == "disparity"
    assert result["choices"]["class"] == "DepthAnythingForDepthEstimation"
    (kept,) = (tmp_path / "kept").rglob("*.npy")  # both photos have the same pixels
    assert kept.parent.name == result["choices"]["model_sha256"][:16]


def test_what_is_no_depth_model_says_so(tmp_path: Path) -> None:
    bert = tmp_path / "bert"
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(bert)
    (tmp_path / "empty").mkdir()
    for which, said in (
        (bert, r"is no depth estimator that transformers [\d.]+ opens"),
        (tmp_path / "empty", "it is no model's folder"),
        ("nothing-here", "name a folder, OWNER/NAME"),
    ):
        with pytest.raises(DataError, match=said):
            PeerChoice(which=str(which)).open()


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_depth_anything(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("head.conv3.bias")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="does not hold all weights"):
        PeerChoice(which=str(tmp_path)).open()
