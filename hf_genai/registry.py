"""The one table of our model families, and their registration in transformers' Auto classes.

A configuration class names its model classes (`auto_classes`). They are registered as stand-ins that load the modeling
file when they are first used, so that `import hf_genai` costs next to nothing; once the file is loaded, whoever loaded
it, the real classes take the stand-ins' places.

transformers' own registration cannot do that; what was tried in the stand-ins' place, each with its test:
- the path of a class: `register` takes it, and `from_config` fails on it;
- names in transformers' lazy tables: they find modules of `transformers.models` alone. With this package put there
  under another name they open our classes, but not where they were loaded before: they keep the names of that moment;
- the real classes, registered as soon as `transformers.modeling_utils` is loaded: the Auto classes open models before.
And a hook has to wait for the Auto classes, since they load torch, which takes seconds.
"""

import importlib
from functools import partial
from typing import Any

import wrapt

# model_type -> (configuration module, configuration class, modeling module), all in hf_genai.models
FAMILIES = {
    "genai_rnn": ("configuration_rnn", "GenaiRNNConfig", "modeling_rnn"),
    "genai_bert": ("configuration_bert", "GenaiBertConfig", "modeling_bert"),
    "genai_gpt": ("configuration_gpt", "GenaiGPTConfig", "modeling_gpt"),
    "genai_t5": ("configuration_t5", "GenaiT5Config", "modeling_t5"),
}


class _StandIn(type):
    """A class that answers for a model class that is not loaded yet: every unknown attribute comes from the real
    one."""

    module: str

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(getattr(importlib.import_module(cls.module), cls.__name__), name)

    def __call__(cls, *args, **kwargs):
        return getattr(importlib.import_module(cls.module), cls.__name__)(*args, **kwargs)


def load(family: str, name: str) -> Any:
    """Return the class called `name` of a family."""
    configuration, config_class, modeling = FAMILIES[family]
    return getattr(
        importlib.import_module(f"hf_genai.models.{configuration if name == config_class else modeling}"), name
    )


def _register_config(family: str, auto: Any) -> None:
    """Make a family's configuration known, as soon as `auto` (transformers' table of configurations) is loaded."""
    auto.AutoConfig.register(family, load(family, FAMILIES[family][1]), exist_ok=True)


def _register_models(family: str, auto: Any) -> None:
    """Make a family's model classes known, as soon as `auto` (transformers' tables of models) is loaded."""
    config_class, module = load(family, FAMILIES[family][1]), f"hf_genai.models.{FAMILIES[family][2]}"
    for auto_class, name in config_class.auto_classes.items():
        stand_in = _StandIn(name, (), {"config_class": config_class, "module": module, "__module__": module})
        getattr(auto, auto_class).register(config_class, stand_in, exist_ok=True)
        if auto_class == "AutoModelForCausalLM":
            # by these names Trainer knows whose labels it has to shift when it smooths them
            auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family] = name
        elif auto_class == "AutoModelForSeq2SeqLM" and "AutoModelForCausalLM" not in config_class.auto_classes:
            # by these lm-eval knows what has an encoder; a family with both kinds it would take for one of these alone
            auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES[family] = name


def _replace_stand_ins(family: str, modeling: Any) -> None:
    """Register the real classes, as soon as the modeling file is loaded, and give its operations their twins."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    config_class = load(family, FAMILIES[family][1])
    for auto_class, name in config_class.auto_classes.items():
        getattr(auto, auto_class).register(config_class, getattr(modeling, name), exist_ok=True)
    importlib.import_module("hf_genai.kernels").install(family)


def register() -> None:
    """Register every family in the Auto classes: now if they are loaded already, else at the moment when they are."""
    for family, (_, _, modeling) in FAMILIES.items():
        for module, hook in (
            ("transformers.models.auto.configuration_auto", _register_config),
            ("transformers.models.auto.modeling_auto", _register_models),
            (f"hf_genai.models.{modeling}", _replace_stand_ins),
        ):
            wrapt.register_post_import_hook(partial(hook, family), module)
