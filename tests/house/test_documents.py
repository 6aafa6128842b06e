"""Promises of the documents: every command, option, target, extra, module and file that they name exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import command_lines, documents, problems


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path) -> None:
    assert problems(document.read_text(encoding="utf-8")) == []


def test_commands_are_read_out_of_every_kind_of_block() -> None:
    text = """
Say `fiffdepth doctor` or `make
test`.
```console
$ fiffdepth infer a.jpg   # a photo
said by the program
```
```sh
python -m export.build_engines a.safetensors \\
  -o engines/a
```
```text
photos/    a folder
fiffdepth info
```
```python
fiffdepth = 1
```
"""
    assert [line.split("#")[0].split() for line in command_lines(text)] == [
        ["fiffdepth", "infer", "a.jpg"],
        ["python", "-m", "export.build_engines", "a.safetensors", "-o", "engines/a"],
        ["fiffdepth", "info"],
        ["fiffdepth", "doctor"],
        ["make", "test"],
    ]


@pytest.mark.parametrize(
    "named",
    [
        "fiffdepth infer photos -o depth --size 512",
        "FIFFDEPTH_CACHE=off fiffdepth bench --backend=onnxruntime",
        "python -m training.data prepare | check",
        "python -m training.data check hypersim DIR --split train && make test",
        "python benchmarks/accuracy.py --datasets folder:DIR",
        "accelerate launch --num_machines 2 -m training.train training/configs/fiffdepth.toml --dry-run",
        "pip install 'fiffdepth-rt[cpu,tensorrt]'",
        "make nano PHOTOS=photos",
        "pytest -m gpu",
        "--dry-run",
        "training.objective",
        "fiffdepth_rt.Depth.infer(photo)",
        "mixing.py",
        "benchmarks/results/",
        "engines/fiffdepth",
        "size=(768, 768)",
    ],
)
def test_what_exists_is_no_problem(named: str) -> None:
    assert problems(f"Say `{named}`.") == []


COMMANDS = [
    ("fiffdepth infer photo.jpg --precison bf16", "no option --precison"),
    ("fiffdepth infre photo.jpg", "no command infre"),
    ("FIFFDEPTH_CACHE=off fiffdepth bench --nothing", "no option --nothing"),
    ("python -m training.data check hypersim DIR --spilt train", "no option --spilt"),
    ("python -m training.data_sets", "no program training.data_sets"),
    ("python -m training.labelling --images DIR --space=depht", "--space is one of"),
    ("python -m benchmarks.accuracy --dataset nyuv2", "no option --dataset"),
    ("python benchmarks/accuracies.py", "no benchmarks/accuracies.py"),
    ("python benchmarks/accuracy.py --dataset nyuv2", "no option --dataset"),
    ("accelerate launch --machines 2 -m training.train", "no --machines"),
    ("accelerate launch -m training.train c.toml --dry", "no option --dry"),
    ("pip install 'fiffdepth-rt[cpu,trt]'", "no extra trt"),
    ("make tset", "no target tset"),
    ("make test && make nano PHOTO=photos", "knows no PHOTO"),
    ("pytest -m cuda", "no marker cuda"),
]
NAMES = [
    ("python -m training.data prepare | chekc", "no command chekc"),
    ("export.build_engines --nothing", "no option --nothing"),
    ("--dry", "no program of ours has an option --dry"),
    ("[trt]", "no extra trt"),
    ("training.objectives", "no such module"),
    ("fiffdepth_rt.Depth.infre(photo)", "no such module or name"),
    ("mixings.py", "no such file"),
    ("benchmarks/result/", "no such file"),
]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        *((f"```console\n$ {named}   # planted\n```\n", missing) for named, missing in COMMANDS),
        *((f"```sh\n{named}\n```\n", missing) for named, missing in COMMANDS),
        *((f"Say `{named}`.", missing) for named, missing in (*COMMANDS, *NAMES)),
    ],
)
def test_what_does_not_exist_is_found(text: str, missing: str) -> None:
    (said,) = problems(text)
    assert missing in said
