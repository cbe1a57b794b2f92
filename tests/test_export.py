"""A saved or pushed model works where hf_genai cannot be imported, with the code that travelled beside its weights."""

import copy
import json

import pytest
import torch
from loopback_hub import LoopbackHub
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import hf_genai
from hf_genai.hub import CardData, push, save_for_hub, usage_snippet

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnop"]
SENTENCES = ["a b c d", "p o n", "h h h h h g"]
OPTIONS = {"max_new_tokens": 8, "min_new_tokens": 4}
COMBINATIONS = {
    "bahdanau": {"attention_type": "additive", "attention_position": "before", "decoder_layers": 2},
    "luong": {"attention_type": "general", "cell_type": "lstm", "input_feeding": True, "encoder_layers": 2},
    "sutskever": {
        "attention_type": "none",
        "cell_type": "lstm",
        "bidirectional_encoder": False,
        "reverse_source": True,
    },
    "two_vocabularies": {
        "attention_type": "scaled_dot",
        "share_encoder_decoder_embeddings": False,
        "source_vocab_size": len(WORDS),
    },
}
HEADS = {
    "AutoModel": "GenaiRNNModel",
    "AutoModelForCausalLM": "GenaiRNNForCausalLM",
    "AutoModelForSequenceClassification": "GenaiRNNForSequenceClassification",
    "AutoModelForTokenClassification": "GenaiRNNForTokenClassification",
}

WITHOUT_THE_PACKAGE = """
import builtins, json, os, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_genai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import torch, transformers
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

folders, sentences, heads, options = map(json.loads, sys.argv[1:])
found = {"ids": {}, "heads": {}, "refused": []}

def translate(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    model, loading = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=True, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    batch = tokenizer(sentences, return_tensors="pt", padding=True)
    return model, [model.generate(**batch, num_beams=beams, **options).tolist() for beams in (1, 4)]

for name, place in folders.items():
    model, found["ids"][name] = translate(place)
    found["ids"][name + ", its AutoModel"] = type(AutoModel.from_pretrained(place, trust_remote_code=True)).__name__
model.save_pretrained("again")
AutoTokenizer.from_pretrained(place).save_pretrained("again")
found["files"] = sorted(os.listdir("again"))
found["ids"]["again"] = translate("./again")[1]

for auto_class, place in heads.items():
    model = getattr(transformers, auto_class).from_pretrained(place, trust_remote_code=True).eval()
    with torch.no_grad():
        found["heads"][auto_class] = [type(model).__name__, model(torch.tensor([[4, 5, 6, 7]]))[0].tolist()]

for load in (AutoConfig, AutoModel, AutoModelForSeq2SeqLM):
    try:
        load.from_pretrained(place)
    except ValueError as error:
        found["refused"].append("trust_remote_code" in str(error))
text = ModelCard.load("tester/translator").content
found["shown"] = text.split("```text\\n")[1].split("\\n```")[0]
builtins.input = lambda question: found.update(asked=question)
exec(text.split("```python\\n")[1].split("\\n```")[0], {"print": lambda line: found.update(printed=line)})
assert "hf_genai" not in sys.modules
print()  # the question whether to trust ends without a new line
print(json.dumps(found))
"""


def tiny(class_name: str, seed: int = 0, **choices):
    """A model whose random weights are so large that its outputs depend on its inputs."""
    config = hf_genai.GenaiRNNConfig(vocab_size=len(WORDS), hidden_size=16, num_labels=3, **choices)
    model = getattr(hf_genai, class_name)(config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=1.0 if "embed" in name else 0.3)
    return model


def lively_translator(batch, **choices):
    """A translator and its ids, greedy and by beams, that differ between sources and from each other."""
    for seed in range(100):
        model = tiny("GenaiRNNForConditionalGeneration", seed, **choices)
        ids = [model.generate(**batch, num_beams=beams, **OPTIONS).tolist() for beams in (1, 4)]
        if len(set(map(tuple, ids[0]))) == len(ids[0]) and ids[0] != ids[1]:
            return model, ids
    raise AssertionError("no seed tells sources apart")


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, return_token_type_ids=False, **special)


@pytest.fixture(scope="module")
def home_and_away(tmp_path_factory, tokenizer):
    """What the models say here, and what they say in one process that has no hf_genai."""
    root = tmp_path_factory.mktemp("export")
    here, folders, heads = {"ids": {}, "heads": {}}, {}, {}
    batch = tokenizer(SENTENCES, return_tensors="pt", padding=True)
    for name, choices in COMBINATIONS.items():
        model, here["ids"][name] = lively_translator(batch, **choices)
        two = name == "two_vocabularies"
        card = CardData(title=name, summary="Random.", model_type="genai_rnn", usage=usage_snippet("a b", two))
        tokenizers = (tokenizer, copy.deepcopy(tokenizer)) if two else tokenizer
        folders[name] = str(save_for_hub(root / name, model, tokenizers, card))
    for auto_class, class_name in HEADS.items():
        seq2seq = auto_class == "AutoModel"
        model = tiny(class_name, **({} if seq2seq else {"is_encoder_decoder": False}))
        model.save_pretrained(root / auto_class)
        heads[auto_class] = str(root / auto_class)
        with torch.no_grad():
            here["heads"][auto_class] = [class_name, model(torch.tensor([[4, 5, 6, 7]]))[0].tolist()]
    with LoopbackHub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.connect(patch)
        push(folders["two_vocabularies"], "tester/translator", private=True, echo=lambda line: None)
        arguments = [folders | {"from the hub": "tester/translator"}, SENTENCES, heads, OPTIONS]
        printed = hub.python(WITHOUT_THE_PACKAGE, root / "away", *map(json.dumps, arguments))
        assert hub.unknown == []
    return here, json.loads(printed.splitlines()[-1]), root


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_saved_translator_generates_the_same_ids_without_the_package(home_and_away, name):
    here, away, _ = home_and_away
    assert away["ids"][name] == here["ids"][name]
    assert away["ids"][f"{name}, its AutoModel"] == "GenaiRNNModel"


def test_a_pushed_translator_opens_by_its_name_on_the_hub(home_and_away):
    here, away, _ = home_and_away
    assert away["ids"]["from the hub"] == here["ids"]["two_vocabularies"]


def test_saving_again_without_the_package_keeps_the_code(home_and_away):
    here, away, root = home_and_away
    assert away["ids"]["again"] == away["ids"]["from the hub"]
    code = {path.name for path in (root / "bahdanau").glob("*.py")}
    assert code and code <= set(away["files"])
    saved, again = (json.loads((root / name / "config.json").read_text()) for name in ("bahdanau", "away/again"))
    assert again["auto_map"].keys() == saved["auto_map"].keys()


@pytest.mark.parametrize("auto_class", HEADS)
def test_every_head_opens_by_its_auto_class_without_the_package(home_and_away, auto_class):
    here, away, _ = home_and_away
    name, numbers = away["heads"][auto_class]
    assert name == here["heads"][auto_class][0]
    torch.testing.assert_close(torch.tensor(numbers), torch.tensor(here["heads"][auto_class][1]))


def test_without_trust_nothing_of_the_code_runs(home_and_away):
    assert home_and_away[1]["refused"] == [True, True, True]


def test_the_map_of_a_saved_head_names_every_auto_class(home_and_away):
    root = home_and_away[2]
    for folder in ("bahdanau", *HEADS):
        auto_map = json.loads((root / folder / "config.json").read_text())["auto_map"]
        assert auto_map == {"AutoConfig": "configuration_rnn.GenaiRNNConfig"} | {
            auto_class: f"modeling_rnn.{name}" for auto_class, name in hf_genai.GenaiRNNConfig.auto_classes.items()
        }


def test_the_example_in_the_pushed_card_prints_what_the_card_shows_and_asks_nothing(home_and_away):
    away = home_and_away[1]
    assert away["shown"] and away["printed"] == away["shown"]
    assert "asked" not in away


def test_the_installed_code_opens_a_folder_with_older_code_and_renews_it(tmp_path):
    config = AutoConfig.for_model(
        "genai_gpt", vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    written = (tmp_path / "modeling_gpt.py").read_text("utf-8")
    (tmp_path / "modeling_gpt.py").write_text("raise RuntimeError('the code of an older release')", "utf-8")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_gpt.py").read_text("utf-8") == written
