"""What a result says of itself names files, and no folder of the machine that made it."""

from __future__ import annotations

import pytest

from training.provenance import command_without_folders, without_places


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("/home/ann/runs/ckpt.safetensors", "ckpt.safetensors"),
        ("models/sd2.1-depth/", "sd2.1-depth"),
        (r"C:\Users\ann\ckpt.safetensors", "ckpt.safetensors"),
        ("--encoder=/home/ann/taesd", "--encoder=taesd"),
        ("--model=mine=/home/ann/nano", "--model=mine=nano"),
        ("/home/ann=1/ckpt.safetensors", "ckpt.safetensors"),
        ("-o/home/ann/engines", "-oengines"),
        ("folder:/home/ann/frames", "folder:frames"),
        ("nyuv2,folder:/home/ann/frames", "nyuv2,folder:frames"),
        ("https://example.org/a.jpg", "a.jpg"),
        ("--precision", "--precision"),
        ("unet.mid_block.*", "'unet.mid_block.*'"),
        ("-v", "-v"),
    ],
)
def test_a_command_keeps_its_options_and_the_names_of_its_files(word: str, told: str) -> None:
    assert command_without_folders("export.build_engines", [word]) == f"python -m export.build_engines {told}"


def test_a_configuration_keeps_what_says_nothing_of_the_machine() -> None:
    config = {
        "base": {"model": "stabilityai/stable-diffusion-2-1", "text": "/mnt/models/sd2", "licence": ""},
        "data": {"real": [{"photos": "data/photos", "labels": "~/labels", "weight": 0.5}]},
        "run": {"folder": "../runs/first", "steps": 3},
    }
    assert without_places(config) == {
        "base": {"model": "stabilityai/stable-diffusion-2-1", "text": "sd2", "licence": ""},
        "data": {"real": [{"photos": "data/photos", "labels": "labels", "weight": 0.5}]},
        "run": {"folder": "first", "steps": 3},
    }
