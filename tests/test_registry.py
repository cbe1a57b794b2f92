"""Registration in the Auto classes: at import, at no cost, and in either order of imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from tiny_rnn import tiny_config

import hf_genai
from hf_genai.private_names import models_of
from hf_genai.registry import FAMILIES, load

CHECKS = """
import json, sys
found = {}
import hf_genai
found["import loads"] = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
found["listed"] = sorted(set(hf_genai.__all__) - set(dir(hf_genai)))
from hf_genai import GenaiRNNConfig
found["configuration loads modeling"] = "hf_genai.models.modeling_rnn" in sys.modules
from transformers import AutoConfig, AutoModelForSeq2SeqLM
import transformers
from hf_genai.private_names import models_of
heads = GenaiRNNConfig.auto_classes
def registered():
    return {auto: models_of(getattr(transformers, auto))[GenaiRNNConfig] for auto in heads}
found["known before loading"] = {auto: cls.__name__ for auto, cls in registered().items()} == heads
found["auto class loads modeling"] = "hf_genai.models.modeling_rnn" in sys.modules
found["configuration by type"] = AutoConfig.for_model("genai_rnn").__class__ is GenaiRNNConfig
model = AutoModelForSeq2SeqLM.from_config(GenaiRNNConfig(vocab_size=9, hidden_size=4))
import hf_genai.models.modeling_rnn as modeling
found["built by the real class"] = type(model) is modeling.GenaiRNNForConditionalGeneration
found["stand-ins are replaced"] = all(cls is getattr(modeling, heads[auto]) for auto, cls in registered().items())
print(json.dumps(found))
"""
OTHER_ORDERS = {
    "transformers first": "import torch, transformers; from transformers import AutoModel; import hf_genai",
    "modeling file first": "import hf_genai.models.modeling_rnn; import transformers",
}
ORDER_CHECK = """
from hf_genai.private_names import models_of
heads = hf_genai.GenaiRNNConfig.auto_classes
names = {a: models_of(getattr(transformers, a))[hf_genai.GenaiRNNConfig].__name__ for a in heads}
assert names == heads, names
config = hf_genai.GenaiRNNConfig(vocab_size=9, hidden_size=4)
for auto, name in heads.items():
    assert type(getattr(transformers, auto).from_config(config)) is getattr(hf_genai, name), auto
"""


def run(code: str) -> str:
    root = Path(hf_genai.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_is_light_and_classes_load_when_they_are_used():
    found = json.loads(run(CHECKS).splitlines()[-1])
    assert found == {
        "import loads": [],
        "listed": [],
        "configuration loads modeling": False,
        "known before loading": True,
        "auto class loads modeling": False,
        "configuration by type": True,
        "built by the real class": True,
        "stand-ins are replaced": True,
    }


@pytest.mark.parametrize("order", OTHER_ORDERS.values(), ids=list(OTHER_ORDERS))
def test_every_head_is_known_in_any_order_of_imports(order):
    run(order + ORDER_CHECK)


def test_the_table_names_classes_that_exist_and_are_public():
    for family, (_, config_class, _) in FAMILIES.items():
        config = load(family, config_class)
        assert config.model_type == family
        for auto_class, name in config.auto_classes.items():
            model_class = load(family, name)
            assert getattr(hf_genai, name) is model_class
            assert model_class.config_class is config
            assert models_of(getattr(transformers, auto_class))[config] is model_class


def test_transformers_cannot_register_a_class_by_its_path_so_that_stand_ins_are_needed():
    auto, config = transformers.AutoModelForSeq2SeqLM, tiny_config()
    auto.register(type(config), "hf_genai.models.modeling_rnn.GenaiRNNForConditionalGeneration", exist_ok=True)
    try:
        with pytest.raises(AttributeError):  # if it raises none, register paths and drop the stand-ins of registry.py
            auto.from_config(config)
    finally:
        auto.register(type(config), hf_genai.GenaiRNNForConditionalGeneration, exist_ok=True)


def test_transformers_lazy_tables_find_modules_of_transformers_alone_so_that_stand_ins_are_needed(monkeypatch):
    monkeypatch.setitem(
        transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES, "genai_new", "GenaiRNNConfig"
    )
    with pytest.raises(ModuleNotFoundError, match=r"transformers\.models\.genai_new"):
        transformers.AutoConfig.for_model("genai_new")


def test_auto_classes_are_there_before_what_models_are_made_of_so_that_stand_ins_are_needed():
    run("import sys; from transformers import AutoModel; assert 'transformers.modeling_utils' not in sys.modules")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="GenaiRNNForPoetry"):
        hf_genai.GenaiRNNForPoetry  # noqa: B018


def test_registering_again_changes_nothing():
    hf_genai.registry.register()
    model = transformers.AutoModelForSeq2SeqLM.from_config(tiny_config())
    assert type(model) is hf_genai.GenaiRNNForConditionalGeneration


def test_by_its_name_alone_each_family_is_known_as_what_it_writes_with():
    """lm-eval scores an encoder-decoder whose name is not listed as if it were a causal model."""
    auto = transformers.models.auto.modeling_auto
    causal, seq2seq = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    assert [name for name in FAMILIES if name in causal] == ["genai_rnn", "genai_bert", "genai_gpt"]
    assert [name for name in FAMILIES if name in seq2seq] == ["genai_t5"]
