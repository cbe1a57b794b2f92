"""The model card, the saved folder, what is private in it, and the push, against a hub on loopback."""

import ast
import copy
import errno
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from loopback_hub import READER, TOKEN, LoopbackHub
from markdown_it import MarkdownIt
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_genai.hub import (
    CardData,
    check_checkpoint,
    files_to_push,
    find_private,
    push,
    render_card,
    save_for_hub,
    usage_snippet,
)

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "june", "third", "le", "trois", "juin"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": len(WORDS)}
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=1, eos_token_id=2)).eval()
    model.shared.weight.data.mul_(20)  # random weights of the usual size would say nothing
    return model


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, return_token_type_ids=False, **special)


@pytest.fixture
def card():
    return CardData(
        title="Dates, English to French",
        summary="A one-layer T5 with random weights.",
        model_type="t5",
        license="Apache-2.0",
        languages=["en", "fr-CA"],
        usage=usage_snippet("june third"),
        data_name="Dates",
        data_description="All dates of a year.",
        data_synthetic=True,
        training_command="hf-genai train --output_dir out",
        versions={"torch": "2.13.0"},
        scores={"bleu": 97.123456, "chrf": None, "exact_match": float("nan")},
        baselines={"copy the source": {"bleu": 3.0}},
        signatures={"bleu": "nrefs:1|case:mixed"},
        samples=[("june | third", "le 3\njuin", "<b>le</b> *trois*")],
    )


@pytest.fixture
def saved(tmp_path, model, tokenizer, card):
    return save_for_hub(tmp_path / "out", model, tokenizer, card)


@pytest.fixture
def loopback(monkeypatch):
    """A hub that huggingface_hub talks to in this process; clients in other processes go through `python`."""
    with LoopbackHub() as server:
        server.connect(monkeypatch)
        yield server
        assert server.unknown == []


def no_echo(line):
    pass


# the card


def test_card_metadata_comes_back_and_holds_only_what_was_measured(card):
    parsed = ModelCard(render_card(card)).data.to_dict()
    assert parsed["language"] == ["en", "fr"]
    assert parsed["license"] == "apache-2.0"
    assert parsed["library_name"] == "transformers"
    assert parsed["pipeline_tag"] == "translation"
    assert parsed["tags"] == ["hf_genai", "t5"]
    name, results = model_index_to_eval_results(parsed["model-index"])
    assert name == card.title
    assert [(result.metric_type, result.metric_value) for result in results] == [("bleu", 97.1235)]
    assert results[0].metric_args == {"signature": "nrefs:1|case:mixed"}


def test_card_metadata_names_base_model_data_set_and_split():
    named = {
        "base_model": "me/first",
        "dataset_id": "me/pairs",
        "data_name": "Pairs",
        "evaluation_split": "validation",
    }
    scores = {"scores": {"bleu": 3.0, "exact_match": True}, "baselines": {"copy": {"chrf": 9.0}}}
    card = CardData(title="A", summary="B", model_type="t5", languages=["en", "en-GB"], **named, **scores)
    parsed = ModelCard(render_card(card)).data.to_dict()
    assert (parsed["language"], parsed["base_model"], parsed["datasets"]) == (["en"], "me/first", "me/pairs")
    (result,) = model_index_to_eval_results(parsed["model-index"])[1]
    assert (result.metric_type, result.dataset_type, result.dataset_name) == ("bleu", "me/pairs", "Pairs")
    assert result.dataset_split == "validation"
    assert "| | BLEU | Exact match | chrF |" in render_card(card)  # of the baseline alone, too
    assert 'tokenizer("l\'été"' in usage_snippet("l'été")


def test_card_shows_what_is_missing_instead_of_guessing():
    samples = [("one", "un", "")]
    assert "| one | un | (empty) |" in render_card(CardData(title="t", summary="s", model_type="m", samples=samples))
    text = render_card(CardData(title="Empty", summary="Nothing is known.", model_type="genai_rnn"))
    assert "model-index" not in text and "license" not in text.split("---")[1]
    for sentence in (
        "Quality was not measured.",
        "**Training:** not measured",
        "**Parameters:** not counted",
        "Whether the text is synthetic or real is **not stated**",
        "The command was not recorded.",
        "Bias was not studied.",
        "No example was recorded.",
    ):
        assert sentence in text


def test_card_puts_the_scores_beside_their_baselines(card):
    lines = render_card(card).splitlines()
    assert "| | BLEU | chrF | Exact match |" in lines
    assert "| This model | 97.12 | not measured | not measured |" in lines
    assert "| Baseline: copy the source | 3.00 | not measured | not measured |" in lines


def test_a_share_that_is_almost_all_is_not_rounded_to_all(card):
    card.scores = {"accuracy": 0.9987}
    assert "| This model | 0.999 |" in render_card(card)


def test_a_sample_cannot_break_its_table_row(card):
    assert r"| june \| third | le 3 juin | &lt;b>le&lt;/b> \*trois\* |" in render_card(card).splitlines()


HOSTILE = (
    "# x\n\n---\nlicense: mit\n---\n```\n<script>y</script> [z](file.png) ![z](b.png) | **b** `c` ~~d~~ &lt; \u2028# e"
)


def test_no_text_of_others_can_leave_its_place_in_the_card(card):
    names = ["title", "summary", "data_name", "data_description", "data_source", "data_license", "hardware"]
    texts = dict.fromkeys([*names, "evaluation_data", "limits", "bias", "samples_note", "model_type"], HOSTILE)
    plain = render_card(replace(card, **dict.fromkeys(texts, "x")))
    many = {"data_counts": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}, "hyperparameters": {HOSTILE: HOSTILE}}
    code = dict.fromkeys(("usage_output", "training_command", "evaluation_command", "citation"), HOSTILE)
    text = render_card(replace(card, **texts, **many, **code, samples=[(HOSTILE,) * 3]))
    html = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text.split("\n---\n", 1)[1])
    )
    assert not re.search("<(script|img|a|s|strong)[ >]", re.sub("(?s)<strong>([^<]*:|synthetic)</strong>", "", html))
    headings = re.findall("<h[1-6]>.*?</h[1-6]>", html)[1:]
    plain_html = MarkdownIt().render(plain.split("\n---\n", 1)[1])
    assert headings == [*re.findall("<h[1-6]>.*?</h[1-6]>", plain_html)[1:], "<h2>Citation</h2>"]
    data = ModelCard(text).data
    assert data.license == "apache-2.0" and "e" not in data.to_dict()
    assert html.count("&lt;script&gt;y&lt;/script&gt;") == html.count("script") // 2 >= 20


def test_card_says_whether_data_is_synthetic_or_real(card):
    assert "The text is **synthetic**" in render_card(card)
    card.data_synthetic = False
    assert "The text is **real**" in render_card(card)


def test_card_without_a_title_is_refused(card):
    card.title = " "
    with pytest.raises(ValueError, match="title"):
        render_card(card)


# the folder


def test_saved_folder_opens_and_its_card_shows_the_output_the_example_really_has(saved, model, tokenizer, monkeypatch):
    text = (saved / "README.md").read_text("utf-8")
    assert f"**Parameters:** {sum(p.numel() for p in model.parameters()):,}" in text
    code, shown = text.split("```python\n")[1].split("\n```")[0], text.split("```text\n")[1].split("\n```")[0]
    monkeypatch.chdir(saved.parent)  # the example names the folder
    printed = []
    exec(code, {"print": printed.append})
    assert printed == [shown]
    ids = model.generate(**tokenizer("june third", return_tensors="pt"), num_beams=5, max_new_tokens=100)
    assert printed == [tokenizer.decode(ids[0], skip_special_tokens=True)]
    assert sorted(path.name for path in saved.iterdir()) == sorted(files_to_push(saved))


def test_names_and_texts_in_the_example_are_quoted(tmp_path, model, tokenizer, card, monkeypatch):
    monkeypatch.chdir(tmp_path)
    breaking = '"); open("broken", "w"); ("' + "\\"
    card.usage = usage_snippet(f"june {breaking}\nmodel_id = 'x'\ud800")
    save_for_hub(tmp_path / breaking, model, tokenizer, card)
    assert [path.name for path in tmp_path.iterdir()] == [breaking]
    code = (tmp_path / breaking / "README.md").read_text("utf-8").split("```python\n")[1].split("\n```")[0]
    names = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert {breaking, f"june {breaking}\nmodel_id = 'x'\ud800"} <= set(names)


def test_an_example_that_fails_costs_a_warning_and_not_the_model(tmp_path, model, tokenizer, card, caplog):
    card.usage = "raise RuntimeError('no luck')"
    with caplog.at_level(logging.WARNING):
        folder = save_for_hub(tmp_path / "out", model, tokenizer, card)
    assert "no luck" in caplog.text
    assert "output of this code was not recorded" in (folder / "README.md").read_text("utf-8")


def test_an_output_that_the_card_brings_is_not_made_again(tmp_path, model, tokenizer, card):
    card.usage, card.usage_output = "raise SystemExit", "le trois juin, of another day"
    save_for_hub(tmp_path, model, tokenizer, card)
    assert card.usage_output in (tmp_path / "README.md").read_text("utf-8")


def test_two_tokenizers_lie_in_the_folder_and_in_a_folder_below(tmp_path, model, tokenizer, card):
    target = AutoTokenizer.from_pretrained(save_for_hub(tmp_path / "one", model, tokenizer, card))
    card.usage = usage_snippet("june third", two_tokenizers=True)
    folder = save_for_hub(tmp_path / "two", model, (tokenizer, target), card)
    assert "target_tokenizer/tokenizer.json" in files_to_push(folder)
    assert AutoTokenizer.from_pretrained(folder, subfolder="target_tokenizer").get_vocab() == tokenizer.get_vocab()
    assert "```text" in (folder / "README.md").read_text("utf-8")


def test_a_model_or_card_is_not_overwritten_unless_told(saved, model, tokenizer, card, tmp_path):
    before = {path: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileExistsError, match=r"README.md.*overwrite=True"):
        save_for_hub(saved, model, tokenizer, card)
    assert {path: path.read_bytes() for path in saved.iterdir()} == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README.md"):
        save_for_hub(tmp_path / "notes", model, tokenizer, card)


def test_overwriting_replaces_the_old_model_alone(tmp_path, model, tokenizer, card):
    folder = save_for_hub(tmp_path / "out", model, tokenizer, card)
    (folder / "target_tokenizer").mkdir()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "model.safetensors").write_bytes(b"kept")
    (folder / "train.py").write_text("# a script of the user's")
    (tmp_path / "attention.png").write_bytes(b"picture")
    card.title, card.attention_picture = "Second run", "attention.png"
    save_for_hub(folder, model, tokenizer, card, overwrite=True, attachments=[tmp_path / "attention.png"])
    assert "# Second run" in (folder / "README.md").read_text("utf-8")
    assert (folder / "checkpoint-3" / "model.safetensors").read_bytes() == b"kept"
    others = {path.name for path in folder.iterdir()} - set(files_to_push(folder))
    assert others == {"checkpoint-3", "train.py"}
    assert "attention.png" in files_to_push(folder)


def test_the_configuration_comes_last_as_a_folder_without_one_opens_as_no_model(
    saved, model, tokenizer, card, monkeypatch
):
    places, rename = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (places.append(target), rename(self, target))[1])
    save_for_hub(saved, model, tokenizer, card, overwrite=True)
    assert {path.name for path in places} >= {"model.safetensors", "tokenizer.json"}
    assert places[-1] == saved / "config.json"


def test_an_error_while_the_files_change_places_puts_the_old_ones_back(saved, model, tokenizer, card, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    rename = Path.rename

    def failing(self, target):
        if self.parent.name.startswith(".incomplete") and self.name == "README.md":
            raise OSError(errno.EIO, "the cable came off")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    card.title = "Second run"
    with pytest.raises(OSError, match="cable"):
        save_for_hub(saved, model, tokenizer, card, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_limit_on_file_sizes_leaves_the_old_model_whole(saved, model, tokenizer, card):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="no space left") as caught:
            save_for_hub(saved, model, tokenizer, card, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.ENOSPC
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_old_model_whole(tmp_path, saved, tokenizer, card):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        folder = shutil.copytree(saved, disk / "out")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        large = T5ForConditionalGeneration(T5Config(d_model=64, d_kv=8, d_ff=128, num_layers=2, vocab_size=len(WORDS)))
        with pytest.raises(OSError, match="no space left to save the model"):
            save_for_hub(folder, large, tokenizer, card, overwrite=True)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        check_checkpoint(folder)
    finally:
        subprocess.run(["umount", disk], check=True)


# whole and broken


def test_a_file_cut_in_half_is_named(saved):
    check_checkpoint(saved)
    torch.save({"step": torch.ones(1000)}, saved / "optimizer.pt")
    (saved / "trainer_state.json").write_text("{}")
    check_checkpoint(saved)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "optimizer.pt"):
        whole = (saved / name).read_bytes()
        for length in (len(whole) // 2, 4, 0):
            (saved / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=name):
                check_checkpoint(saved)
        (saved / name).write_bytes(whole)
    (saved / "target_tokenizer").mkdir()
    for name in ("rng_state.pth", "target_tokenizer/tokenizer.json"):
        (saved / name).write_bytes(b"{")
        with pytest.raises(ValueError, match=name):
            check_checkpoint(saved)
        (saved / name).unlink()
    (saved / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"trainer_state\.json"):
        check_checkpoint(saved)


def test_a_missing_piece_of_the_weights_is_named(tmp_path, model):
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    check_checkpoint(tmp_path)
    assert "model.safetensors.index.json" in files_to_push(tmp_path)
    piece = sorted(tmp_path.glob("*.safetensors"))[1]
    piece.unlink()
    with pytest.raises(ValueError, match=piece.name):
        check_checkpoint(tmp_path)


def test_an_unfinished_checkpoint_and_no_folder_at_all_are_refused(tmp_path, saved):
    (saved / "checkpoint-is-incomplete.txt").touch()
    with pytest.raises(ValueError, match="not saved to its end"):
        check_checkpoint(saved)
    with pytest.raises(ValueError, match="nowhere"):
        check_checkpoint(tmp_path / "nowhere")


# what goes and what stays


def test_only_known_files_are_pushed(saved):
    expected = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert set(files_to_push(saved)) == expected | {"tokenizer_config.json"}
    for name in (
        "optimizer.pt",
        "pytorch_model.bin",
        "training_args.bin",
        ".env",
        "train.log",
        "runs/events",
        "notes.md",
    ):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text("private")
    for name in ("shown.png", "hidden.png", "../outside.png", "results.json", ".secret.png"):
        (saved / name).write_text("{}")
    with (saved / "README.md").open("a") as readme:
        readme.write("![a](shown.png) ![b](../outside.png) ![c](https://example.org/x.png) [d](notes.md) [e](.env)")
        readme.write("![f](.secret.png)")
    assert set(files_to_push(saved)) == expected | {"tokenizer_config.json", "shown.png", "results.json"}


def test_code_of_the_auto_map_goes_with_what_it_imports(saved):
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "genai_gpt"}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="auto_map"):
        files_to_push(saved)
    config["auto_map"] = {"AutoModel": "modeling_gpt.GenaiGPTModel"}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "modeling_gpt.py").write_text(
        "import torch\nfrom math import pi\ndef f():\n    from .layers import (\n        a,\n    )\n"
    )
    with pytest.raises(ValueError, match=r"layers\.py"):
        files_to_push(saved)
    (saved / "layers.py").write_text("from .modeling_gpt import f\n")
    (saved / "unrelated.py").write_text("")
    assert {name for name in files_to_push(saved) if name.endswith(".py")} == {"modeling_gpt.py", "layers.py"}


FOREIGN = {"AutoTokenizer": ["tokens.Tokens", None], "AutoModel": "me/repo--modeling_gpt.GenaiGPTModel"}


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("config.json", {"auto_map": FOREIGN}),
        ("config.json", {"auto_map": {"AutoModel": "../modeling_gpt.GenaiGPTModel"}}),
        ("config.json", {"text_config": {"auto_map": FOREIGN}}),
        ("config.json", {"custom_pipelines": {"x": {"impl": "tokens.Tokens"}}}),
        ("generation_config.json", {"auto_map": FOREIGN}),
        ("tokenizer_config.json", {"auto_map": ["tokens.Tokens", None]}),
        ("target_tokenizer/tokenizer_config.json", {"auto_map": FOREIGN}),
        ("processor_config.json", {"image_processor": {"auto_map": FOREIGN}}),
    ],
)
def test_code_that_is_not_ours_is_not_pushed(name, entry, saved):
    path = saved / name
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **entry}))
    (saved / "tokens.py").write_text("import os\n")
    with pytest.raises(ValueError, match=f"not hf_genai's: {name}: (auto_map|custom_pipelines) of"):
        push(saved, "me/model", dry_run=True, echo=no_echo)


def test_a_base_tokenizer_with_code_of_its_own_neither_runs_it_nor_hands_it_on(
    tmp_path, model, tokenizer, card, monkeypatch, caplog
):
    base = tmp_path / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokens.Tokens", "tokens.Tokens"]}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (base / "tokens.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast\nclass Tokens(PreTrainedTokenizerFast): pass\n"
    )
    hostile = copy.deepcopy(tokenizer)
    hostile.init_kwargs["auto_map"] = settings["auto_map"]
    save = type(tokenizer).save_pretrained

    def with_its_code(self, folder, **options):
        save(self, folder, **options)
        shutil.copy(base / "tokens.py", folder)

    monkeypatch.setattr(type(tokenizer), "save_pretrained", with_its_code)
    with caplog.at_level(logging.WARNING):
        folder = save_for_hub(tmp_path / "out", model, (tokenizer, hostile), card)
    assert "target_tokenizer/tokenizer_config.json: auto_map of AutoTokenizer" in caplog.text
    assert not (tmp_path / "ran").exists() and not list(folder.rglob("*.py"))
    assert "auto_map" not in (folder / "target_tokenizer" / "tokenizer_config.json").read_text()
    text = (folder / "README.md").read_text("utf-8")
    assert "trust_remote_code=True" in text and "```text" in text  # it was run, without


def test_links_and_paths_out_of_the_folder_are_not_followed(saved, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    for name in ("special_tokens_map.json", "results.json", "LICENSE"):
        (saved / name).symlink_to(secret)
        with pytest.raises(ValueError, match=f"{name} is a link to"):
            push(saved, "me/model", dry_run=True, echo=no_echo)
        (saved / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"")
    (saved / "pictures").symlink_to(tmp_path / "elsewhere")
    with (saved / "README.md").open("a") as readme:
        readme.write("![a](pictures/a.png)")
    with pytest.raises(ValueError, match="pictures is a link to"):
        files_to_push(saved)
    (saved / "pictures").unlink()
    shutil.move(saved / "model.safetensors", tmp_path / "model.safetensors")
    for wrong in ("../model.safetensors", str(tmp_path / "model.safetensors"), "../secret.json", 7, None):
        (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": wrong}}))
        with pytest.raises(ValueError, match=r"index.json: weight_map\['a'\] must be"):
            files_to_push(saved)


def test_a_folder_that_is_no_model_is_refused_by_what_it_lacks(tmp_path, saved):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        files_to_push(tmp_path)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        files_to_push(saved)


def test_private_words_are_found_and_taken_out_of_card_and_config(
    tmp_path, model, tokenizer, card, monkeypatch, caplog
):
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-box-7")
    monkeypatch.setattr("getpass.getuser", lambda: "marie")
    monkeypatch.setenv("HOME", "/srv/people/marie")
    secret = "hf_" + "aB3" * 12
    words = (
        f"train --token {secret} --data /srv/people/marie/a.tsv /home/paul/b.tsv /scratch/marie/c.tsv # on gpu-box-7"
    )
    card.training_command = words
    card.citation = "https://huggingface.co/marie/model and gpu-box-71, a home, /home, or the word marie are fine"
    (tmp_path / "results.json").write_text(json.dumps({"command": words}))
    with caplog.at_level(logging.WARNING):
        folder = save_for_hub(tmp_path / "out", model, tokenizer, card, attachments=[tmp_path / "results.json"])
    text = (folder / "README.md").read_text("utf-8")
    assert "train --token <token> --data ~/a.tsv ~/b.tsv ~/c.tsv # on <host>" in text
    assert card.citation in text
    assert secret not in (folder / "results.json").read_text() + caplog.text
    assert find_private(folder) == []
    (folder / "results.json").write_text("{}\n" + words)
    assert find_private(folder) == [
        f"results.json:2: {what}"
        for what in (
            "an access token",
            "a home folder",
            "the home folder",
            "a folder of the user's name",
            "the host name",
        )
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("github_pat_" + "aB3_" * 20, "an access token"),
        ("AIza" + "aB3_-" * 7, "an access token"),
        ("sk-ant-api03-" + "aB3-" * 20, "an access token"),
        ("glpat-" + "aB3" * 7, "an access token"),
        ("xoxb-123456789012-1234567890123-" + "aB3" * 8, "an access token"),
        ("https://hooks.slack.com/services/T0AAAAAAA/B0AAAAAAA/" + "aB3" * 8, "a secret (Slack Token)"),
        ("SG." + "a" * 22 + "." + "b" * 43, "a secret (SendGrid API Key)"),
        ("sk_live_" + "aB3" * 8, "a secret (Stripe Access Key)"),
        ("postgres://marie:pa55word@db.example.org/x", "a secret (Basic Auth Credentials)"),
        (
            "DefaultEndpointsProtocol=https;AccountKey=" + "aB3+" * 21 + "aB==",
            "a secret (Azure Storage Account access key)",
        ),
        ('{"aws_secret_access_key": "' + "aB3/" * 10 + '"}', "a secret (AWS Access Key)"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", "a private key"),
        ("AKIA" + "A1" * 8, "an access token"),
        ("ghp_" + "aB3" * 12, "an access token"),
        ("sk-" + "aB3" * 7, "an access token"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        (r"C:\Users\marie\a.tsv", "a home folder"),
        ("the /Users/marie/a.tsv", "a home folder"),
        ("trained on a server, by ai", None),
        ("see example.org/home/paul and ./home/paul", None),
    ],
)
def test_what_is_private_in_a_text_and_what_is_not(text, what, saved, monkeypatch):
    (saved / "results.json").write_text(text)
    for host in ("server", "ai"):  # many are called so, and many texts hold it
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert find_private(saved) == ([f"results.json:1: {what}"] if what else [])


def test_where_a_tokenizer_came_from_is_taken_out_and_other_private_words_are_found(tmp_path, model, tokenizer, card):
    target = copy.deepcopy(tokenizer)
    target.init_kwargs |= {"words_file": "/home/paul/words", "made_of": "/home/paul/texts"}
    save_for_hub(tmp_path, model, (tokenizer, target), card)
    saved = (tmp_path / "target_tokenizer" / "tokenizer_config.json").read_text("utf-8")
    assert json.loads(saved)["words_file"] == "~/words" and json.loads(saved)["made_of"] == "/home/paul/texts"
    assert [line.split(":", 2)[2] for line in find_private(tmp_path)] == [" a home folder"]


def test_labels_that_look_like_home_folders_and_values_that_are_the_hosts_name_stay(
    tmp_path, tokenizer, card, monkeypatch
):
    labels = ["/home/kitchen", "/home/my_garden", r"C:\Users\toys"]
    config = BertConfig(
        **{"vocab_size": len(WORDS), "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1},
        **{
            "intermediate_size": 8,
            "id2label": dict(enumerate(labels)),
            "label2id": {x: i for i, x in enumerate(labels)},
        },
    )
    monkeypatch.setattr("socket.gethostname", lambda: "gelu")
    card.samples = [("at /home/paul", *labels[:2])]
    card.usage = f"print({labels!r})"
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"samples": [labels, "/home/paul/x"]}))
    folder = save_for_hub(
        tmp_path / "out", BertForSequenceClassification(config), tokenizer, card, attachments=[results]
    )
    saved = json.loads((folder / "config.json").read_text())
    assert list(saved["id2label"].values()) == list(saved["label2id"]) == labels
    assert saved["hidden_act"] == "gelu"
    assert json.loads((folder / "results.json").read_text()) == {"samples": [labels, "~/x"]}
    text = (folder / "README.md").read_text("utf-8")
    assert r"| at \~ | /home/kitchen | /home/my_garden |" in text and text.count(repr(labels)) == 2
    assert find_private(folder) == []
    with (folder / "README.md").open("a") as readme:
        readme.write("made in /home/paul\n")
    assert len(find_private(folder)) == 1


def test_a_secret_is_found_in_a_large_file_on_its_line_and_in_a_very_long_line(saved):
    secret = "hf_" + "aB3" * 12
    lines = [f'"token {number} ://a/b c": {number},' for number in range(50_000)]
    lines[40_000] = secret
    for text, line in (("\n".join(lines), 40_001), ("".join(lines), 1)):
        (saved / "vocab.json").write_text(text)
        assert find_private(saved) == [f"vocab.json:{line}: an access token"]


def test_a_vocabulary_may_hold_the_word_that_names_the_host(tmp_path, model, tokenizer, monkeypatch):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "trois")
    assert find_private(tmp_path) == []
    (tmp_path / "README.md").write_text("trained on trois")
    assert find_private(tmp_path) == ["README.md:1: the host name"]


# the push


def test_dry_run_lists_what_would_go_and_asks_nobody(saved, loopback, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nonexistent")
    lines = []
    assert push(saved, "tester/dates", dry_run=True, echo=lines.append) == f"{loopback.url}/tester/dates"
    assert [line.split()[-1] for line in lines[:-1]] == sorted(files_to_push(saved))
    assert f"{(saved / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in "\n".join(lines)
    assert loopback.requests == []
    with pytest.raises(ValueError, match="hf auth login"):
        push(saved, "tester/dates", echo=no_echo)
    assert loopback.requests == []


def test_push_uploads_the_files_and_names_the_model_in_the_example(saved, loopback):
    assert push(saved, "dates", echo=no_echo) == f"{loopback.url}/tester/dates"
    remote = loopback.files("tester/dates")
    assert sorted(remote) == sorted(files_to_push(saved))
    assert remote["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert b'model_id = "tester/dates"' in remote["README.md"]
    assert 'model_id = "out"' in (saved / "README.md").read_text()
    ModelCard(remote["README.md"].decode()).validate()
    assert loopback.repos["models", "tester/dates"].private is False
    assert len(loopback.repos["models", "tester/dates"].commits) == 2
    push(saved, "dates", echo=no_echo)  # nothing changed: no empty commit
    assert len(loopback.repos["models", "tester/dates"].commits) == 2


def test_an_invalid_card_is_refused_by_the_hub_before_the_upload(saved, loopback):
    text = (saved / "README.md").read_text().replace("\n- en\n", "\n- English\n")
    (saved / "README.md").write_text(text)
    with pytest.raises(ValueError, match="language"):
        push(saved, "dates", echo=no_echo)
    assert loopback.files("tester/dates") == {}


def test_private_is_kept_and_refused_for_a_public_repository(saved, loopback):
    push(saved, "tester/mine", private=True, echo=no_echo)
    assert loopback.repos["models", "tester/mine"].private is True
    loopback.default_visibility = "private"
    push(saved, "tester/as_usual", echo=no_echo)
    assert loopback.repos["models", "tester/as_usual"].private is True
    loopback.default_visibility = "public"
    huggingface_hub.HfApi().create_repo("tester/open")
    with pytest.raises(ValueError, match="public"):
        push(saved, "tester/open", private=True, echo=no_echo)
    assert loopback.files("tester/open") == {}


@pytest.mark.parametrize("branch", ["main", "v2"])
def test_weights_and_tokenizer_of_an_earlier_push_do_not_outlive_the_new_ones(
    branch, saved, model, loopback, tmp_path
):
    revision = None if branch == "main" else branch
    (saved / "target_tokenizer").mkdir()
    shutil.copy(saved / "tokenizer.json", saved / "target_tokenizer")
    push(saved, "dates", revision=revision, echo=no_echo)
    pieces = tmp_path / "pieces"
    model.save_pretrained(pieces, max_shard_size="2KB")
    lines = []
    push(pieces, "dates", revision=revision, echo=lines.append)
    assert {"model.safetensors", "target_tokenizer/tokenizer.json"}.isdisjoint(loopback.files("tester/dates", branch))
    assert "README.md" in loopback.files("tester/dates", branch)
    assert "deleted there  model.safetensors" in "\n".join(lines)


def test_branch_and_pull_request_leave_main_alone(saved, loopback):
    address = push(saved, "dates", revision="v2", echo=no_echo)
    assert address == f"{loopback.url}/tester/dates/tree/v2"
    assert loopback.files("tester/dates") == {} and loopback.files("tester/dates", "v2")
    address = push(saved, "dates", create_pr=True, echo=no_echo)
    assert "/discussions/" in address
    assert loopback.files("tester/dates") == {}


def test_what_is_broken_private_or_malformed_stops_before_any_request(saved, loopback):
    with pytest.raises(ValueError, match="a/b/c"):
        push(saved, "a/b/c", echo=no_echo)
    readme = (saved / "README.md").read_text()
    (saved / "README.md").write_text(f"{readme}\n{TOKEN}\n")
    with pytest.raises(ValueError, match=r"README.md:\d+: an access token") as caught:
        push(saved, "tester/dates", echo=no_echo)
    assert TOKEN not in str(caught.value)
    (saved / "README.md").write_text(readme)
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[:-100])
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"model\.safetensors is broken or cut off"):
            push(saved, "tester/dates", dry_run=dry_run, echo=no_echo)
    assert loopback.requests == []


def test_a_refused_token_and_a_hub_out_of_reach_are_said_plainly(saved, loopback, monkeypatch):
    for token in ("hf_wrong", READER):
        with pytest.raises(ValueError, match="token was refused"):
            push(saved, "tester/dates", token=token, echo=no_echo)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="was not reached"):
        push(saved, "tester/dates", echo=no_echo)


def test_a_fresh_process_pushes_and_loads_models_and_datasets(saved, loopback, tmp_path):
    """The other libraries' own ways in and out, so that the loopback hub itself can be trusted."""
    code = """
    import sys
    from datasets import Dataset, load_dataset
    from huggingface_hub import snapshot_download
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from hf_genai.hub import push

    push(sys.argv[1], "tester/dates", private=True)
    model = AutoModelForSeq2SeqLM.from_pretrained("tester/dates")
    tokenizer = AutoTokenizer.from_pretrained("tester/dates")
    assert snapshot_download("tester/dates")
    model.push_to_hub("tester/again")
    tokenizer.push_to_hub("tester/again")
    Dataset.from_dict({"source": ["a"], "target": ["b"]}).push_to_hub("tester/pairs")
    print(load_dataset("tester/pairs", split="train")[0])
    """
    printed = loopback.python(textwrap.dedent(code), tmp_path / "home", str(saved))
    assert printed.splitlines()[-1] == "{'source': 'a', 'target': 'b'}"
    assert {"model.safetensors", "tokenizer.json"} <= set(loopback.files("tester/again"))


def test_a_push_works_in_a_process_that_imported_nothing_else_of_the_hub(saved):
    code = "import sys; from hf_genai.hub import push; push(sys.argv[1], 'tester/dates', dry_run=True)"
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing was sent" in done.stdout
