"""Settings: round trip, overrides with hints, every wrong value a UsageError that says what was expected."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm import config as config_module
from realm.config import (
    EncoderConfig,
    PretrainConfig,
    ProbeConfig,
    ReaderConfig,
    RealmConfig,
    explain,
    from_json,
    override,
    to_json,
)
from realm.errors import UsageError
from realm.settings import Range, check
from realm.settings_finetune import FinetuneConfig

CONFIGS = [cls for name in config_module.__all__ if dataclasses.is_dataclass(cls := getattr(config_module, name))]


def round_trip(config: Any) -> Any:
    return from_json(type(config), json.loads(json.dumps(to_json(config), allow_nan=False)))


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_configuration_is_frozen_keyword_only_and_survives_json(cls: type) -> None:
    config = cls()
    assert round_trip(config) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(cls)[0].name, 1)
    with pytest.raises(TypeError):
        cls("positional")


def test_every_setting_is_explained() -> None:
    settings = explain(PretrainConfig())
    assert len(settings) > 50
    assert [s.name for s in settings if not s.meaning or not s.expected] == []
    (marginal,) = [s for s in settings if s.name == "realm.marginal"]
    assert marginal.value == "sequence" and marginal.expected == "sequence or token"
    assert marginal.meaning.startswith("Multiply a passage's tokens")


@given(
    steps=st.integers(0, 10**9),
    rate=st.floats(1e-12, 1e3),
    layers=st.none() | st.integers(1, 48),
    ks=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    marginal=st.sampled_from(["sequence", "token"]),
    bf16=st.sampled_from(["auto", True, False]),
    model=st.text(min_size=1, max_size=10).filter(lambda text: text.strip() == text),
)
def test_what_is_overridden_is_what_is_read(
    steps: int, rate: float, layers: int | None, ks: list[int], marginal: str, bf16: str | bool, model: str
) -> None:
    config = override(
        PretrainConfig(),
        [
            f"realm.steps={steps}",
            f"realm.learning_rate={rate!r}",
            f"encoder.layers={layers}",
            f"probe.ks={','.join(map(str, ks))}",
            f"realm.marginal={marginal}",
            f"loop.bf16={bf16}",
            f"model={model}",
        ],
    )
    assert (config.realm.steps, config.realm.learning_rate, config.encoder.layers) == (steps, rate, layers)
    assert (config.probe.ks, config.realm.marginal, config.loop.bf16) == (tuple(ks), marginal, bf16)
    assert (config.encoder.model, config.reader.model) == (model, model)
    assert round_trip(config) == config


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("data.corpus=none", ("data", "corpus"), None),
        ("data.corpus=my=kb", ("data", "corpus"), "my=kb"),
        (" realm.batch_size = 1_000 ", ("realm", "batch_size"), 1000),
        ("realm.null_passage=off", ("realm", "null_passage"), False),
        ("realm.null_passage=1", ("realm", "null_passage"), True),
        ("optim.betas=(0.9, 0.98)", ("optim", "betas"), (0.9, 0.98)),
        ("optim.warmup=bert", ("optim", "warmup"), "bert"),
        ("optim.warmup=20", ("optim", "warmup"), 20),
        ("encoder.normalize=none", ("encoder", "normalize"), "none"),
        ("encoder.pooling=none", ("encoder", "pooling"), None),
        ("realm.learning_rate=1", ("realm", "learning_rate"), 1.0),
    ],
)
def test_text_becomes_the_type_of_the_setting(assignment: str, path: tuple[str, str], value: Any) -> None:
    found = getattr(getattr(override(PretrainConfig(), [assignment]), path[0]), path[1])
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("realm.batchsize=3", "no setting 'realm.batchsize': did you mean realm.batch_size"),
        ("batch_size=3", "did you mean ict.batch_size or realm.batch_size?"),
        ("modle=x", "did you mean model"),
        ("zzz=3", "expected one of model, start, encoder, reader"),
        ("realm=3", "'realm' is a group of settings: expected one of realm.steps"),
        ("realm.steps.x=3", "no setting 'realm.steps.x'"),
        ("realm.steps", "found the setting 'realm.steps': expected name=value"),
        ("=3", "expected name=value"),
        ("realm.batch_size=0", "found realm.batch_size=0: expected a whole number of at least 1"),
        ("realm.batch_size=1.5", "expected a whole number"),
        ("realm.batch_size=none", "expected a whole number"),
        ("realm.batch_size=", "found realm.batch_size='': expected a whole number"),
        ("realm.marginal=seqence", "expected sequence or token; did you mean sequence?"),
        ("realm.null_passage=perhaps", "expected true or false"),
        ("realm.learning_rate=nan", "expected a number above 0"),
        ("realm.learning_rate=inf", "expected a number above 0"),
        ("realm.learning_rate=0", "expected a number above 0"),
        ("ict.removal_probability=1.1", "of at least 0 and at most 1"),
        ("optim.betas=0.9", "2 values separated by commas"),
        ("probe.ks=", "values separated by commas, each a whole number of at least 1"),
        ("probe.ks=1,0", "each a whole number of at least 1"),
        ("model=", "found encoder.model='': expected text"),
    ],
)
def test_a_wrong_override_says_what_was_expected(assignment: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(PretrainConfig(), [assignment])
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_overrides_apply_in_order_and_leave_the_original() -> None:
    config = PretrainConfig()
    changed = override(config, ["model=a", "reader.model=b", "realm.steps=1", "realm.steps=2"])
    assert (changed.encoder.model, changed.reader.model, changed.realm.steps) == ("a", "b", 2)
    assert config == PretrainConfig()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"realm": {"num_candidate": 3}}, "did you mean realm.num_candidates"),
        ({"realms": {}}, "did you mean realm"),
        ({"realm": 3}, "found 3 for realm: expected an object of settings"),
        ([], "expected an object of settings"),
        ({"realm": {"steps": True}}, "found realm.steps=true: expected a whole number"),
        ({"realm": {"steps": "3"}}, "found realm.steps=3: expected a whole number"),
        ({"realm": {"null_passage": 1}}, "expected true or false"),
        ({"probe": {"ks": []}}, "each a whole number"),
        ({"probe": {"ks": 5}}, "each a whole number"),
        ({"loop": {"bf16": 1}}, "expected auto or true or false"),
        ({"encoder": {"dim": 0}}, "expected a whole number of at least 1 or none"),
    ],
)
def test_wrong_json_says_what_was_expected(value: Any, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_json(PretrainConfig, value)
    assert complaint in str(caught.value)


def test_a_part_of_a_configuration_keeps_the_other_defaults() -> None:
    assert from_json(PretrainConfig, {"realm": {"steps": 5}}) == PretrainConfig(realm=RealmConfig(steps=5))


def test_constructors_check_too() -> None:
    with pytest.raises(UsageError, match=r"found RealmConfig\.batch_size=0: expected a whole number of at least 1"):
        RealmConfig(batch_size=0)
    with pytest.raises(UsageError, match=r"PretrainConfig\.encoder"):
        PretrainConfig(encoder="all-MiniLM-L6-v2")  # type: ignore[arg-type]
    assert ProbeConfig(ks=[1, 2]).ks == (1, 2)  # type: ignore[arg-type]
    assert isinstance(EncoderConfig(temperature=1).temperature, float)


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: Annotated[float, Range(low=0, high=1, open_low=True, open_high=True)] = 0.5
    """A share."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    needed: int
    choice: Literal[1, True, "x"] = "x"
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check(self)


def test_any_dataclass_will_do() -> None:
    with pytest.raises(UsageError, match="found no 'needed' in Outer: expected a whole number"):
        from_json(Outer, {})
    config = from_json(Outer, {"needed": 1, "choice": True})
    assert config.choice is True and round_trip(config) == config
    assert override(config, ["inner.share=.25"]).inner.share == 0.25
    with pytest.raises(UsageError, match="above 0 and below 1"):
        override(config, ["inner.share=1"])
    assert explain(config)[-1].meaning == "A share."


@pytest.mark.parametrize(
    ("assignments", "complaint"),
    [
        (["realm.explore=7"], "found realm.explore=7 of 7 retrieved passages: expected at most 6"),
        (["realm.explore=8", "realm.null_passage=false"], "found realm.explore=8 of 8 retrieved passages"),
        (["realm.explore=4", "realm.lexical=3"], "found realm.explore=4 and realm.lexical=3 of 7 retrieved passages"),
        (["realm.explore=1", "realm.explore_depth=6"], "found realm.explore_depth=6: expected at least 7"),
        (["realm.objective=leave-one-out", "realm.marginal=token"], "realm.marginal=token: expected sequence"),
        (["realm.objective=perplexity-distillation", "realm.marginal=token"], "expected sequence"),
        (["ict.crop_shares=0.5,0.1"], "found ict.crop_shares=0.5,0.1: expected the smaller share first"),
        (["realm.objective=atlas"], "expected marginal, emdr2, perplexity-distillation or leave-one-out"),
        (["refresh.partial=0.2", "refresh.mode=sync"], "refresh.mode=sync: expected async, where training goes on"),
        (["refresh.partial=1"], "found refresh.partial=1: expected a number above 0 and below 1 or none"),
        (
            ["refresh.drift=0.1", "refresh.min_steps=9", "refresh.every_steps=8"],
            "found refresh.min_steps=9 with refresh.every_steps=8: the shortest wait can't be longer than the longest",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(assignments: list[str], complaint: str) -> None:
    for order in (assignments, assignments[::-1]):
        with pytest.raises(UsageError) as caught:
            override(PretrainConfig(), order)
        assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_go_together_may_come_in_any_order() -> None:
    assignments = ["realm.explore=12", "realm.num_candidates=17", "realm.explore_depth=16"]
    found = override(PretrainConfig(), assignments)
    assert found == override(PretrainConfig(), assignments[::-1])
    assert (found.realm.explore, found.realm.num_candidates) == (12, 17)
    late = override(
        PretrainConfig(reader=ReaderConfig(copy_head=False)), ["reader.interaction=late", "reader.copy_head=on"]
    )
    assert late.reader.interaction == "late"


@pytest.mark.parametrize("setting", ["refresh.drift=0.1", "refresh.partial=0.25"])
def test_fine_tuning_refuses_what_only_pre_training_measures(setting: str) -> None:
    name, _, value = setting.partition("=")
    with pytest.raises(UsageError) as caught:
        override(FinetuneConfig(), [setting])
    assert f"found {name}={value}: expected none" in str(caught.value)
