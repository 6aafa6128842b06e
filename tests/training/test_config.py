"""Promises of a run's configuration: every key documented and checked, mistakes named with the remedy."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_run import configuration
from training import config
from training.config import ConfigError
from training.objective import Method

CONFIGS = sorted((Path(config.__file__).parent / "configs").glob("*.toml"))
SECTIONS = {
    "run": config.Run,
    "base": config.Base,
    "data": config.Data,
    "data.synthetic": config.Synthetic,
    "data.real": config.Real,
    "method": Method,
    "optimizer": config.Optimizer,
    "compute": config.Compute,
    "validation": config.Validation,
}


def table(**changes: dict[str, Any]) -> dict[str, Any]:
    return configuration(Path("set"), Path("run"), **changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_the_configurations_we_ship_are_valid(path: Path) -> None:
    assert config.load(path).run.name


def test_the_shipped_configuration_is_the_paper_s_method() -> None:
    c = config.load(Path(config.__file__).parent / "configs" / "fiffdepth.toml")
    assert c.method == Method()
    assert [s.weight for s in c.data.synthetic] == [0.9, 0.1]
    assert c.optimizer == config.Optimizer() == config.Optimizer(lr=3e-5, warmup=100, decay_steps=25_000)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_explained_in_its_class_and_in_the_shipped_file(section: str) -> None:
    cls = SECTIONS[section]
    text = (Path(config.__file__).parent / "configs" / "fiffdepth.toml").read_text()
    shipped: Any = config.tomllib.loads(text)
    for part in section.split("."):
        shipped = shipped[part][0] if isinstance(shipped[part], list) else shipped[part]
    for name in cls.__struct_fields__:
        assert re.search(rf"\b{name}\b", cls.__doc__ or ""), name
        assert name in shipped, name
        if name == "sizes" or not isinstance(shipped[name], dict | list):
            assert re.search(rf"^{name} = .*# .*\w", text, flags=re.MULTILINE), name


def test_an_unknown_key_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rat is no key\. Did you mean"):
        config.parse(table(optimizer={"learning_rat": 1e-4}))
    with pytest.raises(ConfigError, match=r"method\.lambda_mea is no key\. Did you mean lambda_mae\?"):
        config.parse(table(method={"lambda_mea": 1.0}))
    nested = table()
    nested["data"]["synthetic"][1]["wieght"] = 2.0
    with pytest.raises(ConfigError, match=r"data\.synthetic\[1\]\.wieght is no key\. Did you mean weight\?"):
        config.parse(nested)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": {"steps": "many"}}, "run.steps = 'many' has to be a whole number, not text in quotes"),
        ({"run": {"steps": 1.5}}, "run.steps = 1.5 has to be a whole number, not a number"),
        ({"run": {"steps": True}}, "not true or false"),
        ({"compute": {"gradient_checkpointing": 1}}, "has to be true or false"),
        ({"data": {"synthetic": {}}}, "data.synthetic has to be a list"),
        ({"data": {"batch": 7}}, "data.batch = 7 has to be even"),
        ({"data": {"space": "depht"}}, 'Did you mean "depth"?'),
        ({"data": {"real": []}}, "needs photos and labels"),
        ({"compute": {"precision": "bf32"}}, 'Did you mean "bf16"?'),
        ({"method": {"teacher": "both"}}, "'filter', 'd0', 'off'"),
        ({"optimizer": {"lr": 0.0}}, "optimizer.lr = 0.0 has to be above 0"),
        ({"optimizer": {"ema": 1.0}}, "optimizer.ema"),
        ({"run": {"name": "a/b"}}, "file name"),
        ({"run": {"folder": ""}}, 'run.folder = "" would be the current folder: name a place.'),
        ({"run": {"name": "n" * 201}}, "run.name has 201 characters; a model's name has at most 200."),
        ({"run": {"name": "ж" * 120}}, "is longer than a name may be, 255 bytes."),
        ({"base": {"model": ""}}, 'base.model = "" would be the current folder'),
        ({"base": {"model": "n" * 256}}, "is longer than a name may be, 255 bytes."),
        ({"run": {"steps": 0}}, "run.steps = 0 has to be at least 1."),
        ({"run": {"steps": 1.0}}, "run.steps = 1.0 has to be a whole number, not a number"),
        ({"run": {"folder": datetime.date(2026, 1, 1)}}, "has to be text in quotes, not date"),
        ({"data": {"flip": 1.5}}, "data.flip = 1.5 has to be from 0 to 1."),
        ({"data": {"flip": float("nan")}}, "data.flip = nan has to be from 0 to 1."),
        ({"data": {"flip": 10**400}}, "has to be from 0 to 1."),
        ({"optimizer": {"ema": -0.1}}, "optimizer.ema = -0.1 has to be at least 0 and below 1."),
        ({"optimizer": {"decay_steps": 2}}, "optimizer.decay_steps = 2 has to be above 2"),
        (
            {"compute": {"precision": 16}},
            "compute.precision = 16 has to be text in quotes",
        ),
        ({"validation": {"set": 4}}, "[validation.set] has to be a table, not 4."),
        (
            {"validation": {"set": {"kind": "hypersim"}}},
            "validation.set.path is missing",
        ),
        ({"method": {"gamma": "half"}}, "method.gamma = 'half' has to be a number, not text in quotes"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_key_and_remedy(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config.parse(table(**changes))


def test_a_missing_key_without_default_is_named() -> None:
    incomplete = table()
    del incomplete["base"]["model"]
    with pytest.raises(ConfigError, match=r"base\.model is missing"):
        config.parse(incomplete)


def test_a_wrong_value_deep_in_a_list_is_named_with_its_place() -> None:
    wrong = table()
    wrong["data"]["synthetic"][1]["weight"] = 0
    with pytest.raises(ConfigError, match=r"data\.synthetic\[1\]\.weight = 0 has to be above 0\."):
        config.parse(wrong)
    wrong["data"]["synthetic"][1] = {"kind": "hypersim", "path": "p", "sizes": [[480, "wide"]]}
    with pytest.raises(ConfigError, match=r"data\.synthetic\[1\]\.sizes\[0\]\[1\] = 'wide' has to be"):
        config.parse(wrong)
    with pytest.raises(ConfigError, match=r"nothing is no key\. Did you mean .* The file takes: run,"):
        config.parse({**table(), "nothing": 1})


def test_a_configuration_survives_the_way_to_metadata_and_back() -> None:
    c = config.parse(table())
    assert config.parse(json.loads(json.dumps(config.plain(c)))) == c


def test_a_size_that_no_latent_fits_is_refused() -> None:
    wrong = table()
    wrong["data"]["real"][0]["sizes"] = [[64, 100]]
    with pytest.raises(ConfigError, match=r"data\.real\[0\]\.sizes: \[64, 100\]"):
        config.parse(wrong)


def test_a_whole_number_stands_for_a_number_and_nothing_else_is_converted() -> None:
    assert config.parse(table(optimizer={"clip": 2})).optimizer.clip == 2.0


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="copy training/configs"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml cannot be read as TOML"):
        config.load(tmp_path / "bad.toml")
