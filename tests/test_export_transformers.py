"""Every head of the Transformers, saved and opened where hf_genai cannot be imported."""

import json
import subprocess
import sys

import pytest
import tiny_transformer as tiny
import torch
from tiny_cases import CLASSIFIERS, KINDS
from tiny_rnn import loud

import hf_genai
from hf_genai.registry import FAMILIES, load

LAYOUTS = {
    "genai_bert": {"modern": tiny.BERTS["modern"], "classic": tiny.BERTS["classic"]},
    "genai_gpt": {"modern": tiny.GPTS["modern"], "dot, relative, untied": tiny.GPTS["dot, relative, untied"]},
    "genai_t5": {"modern": tiny.T5S["modern"], "classic": tiny.T5S["classic"]},
}
WITHOUT_THE_PACKAGE = """
import json, os, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_genai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import torch, transformers

ids = torch.tensor([[4, 5, 6, 2]])
found = {}
for place, (auto_class, kind) in json.loads(sys.argv[1]).items():
    def check(folder):
        model, report = getattr(transformers, auto_class).from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        with torch.no_grad():
            numbers = model(ids[:, None] if kind == "choice" else ids)[0].flatten()[:20].tolist()
        written = None
        if hasattr(model, "lm_head") and model.can_generate():
            written = [
                model.generate(ids, max_new_tokens=6, do_sample=False, num_beams=beams).tolist() for beams in (1, 3)
            ]
        return model, [type(model).__name__, numbers, written]

    model, found[place] = check(place)
    again = place + " again"
    model.save_pretrained(again)
    if found[place][2]:
        assert check(again)[1] == found[place]
    base = transformers.AutoModel.from_pretrained(place, trust_remote_code=True)
    found[place].append(type(base).__name__)
    code = {name for name in os.listdir(place) if name.endswith(".py")}
    found[place].append(bool(code) and code <= set(os.listdir(again)))
assert "hf_genai" not in sys.modules
print()
print(json.dumps(found))
"""


def saved(root):
    """Save each head, and return what it says here."""
    here, places, ids = {}, {}, torch.tensor([[4, 5, 6, 2]])
    for family, layouts in LAYOUTS.items():
        config_class = load(family, FAMILIES[family][1])
        for auto_class, name in config_class.auto_classes.items():
            kind = (KINDS[family] | CLASSIFIERS)[auto_class]
            main = name.endswith(("ForMaskedLM", "ForCausalLM", "ForConditionalGeneration"))
            for layout, choices in layouts.items() if main else [*layouts.items()][:1]:
                torch.manual_seed(0)
                model = loud(getattr(hf_genai, name)(config_class(**{**tiny.SIZES, **choices})), 0.7)
                place = str(root / f"{name} {layout}")
                model.save_pretrained(place)
                with torch.no_grad():
                    numbers = model(ids[:, None] if kind == "choice" else ids)[0].flatten()[:20].tolist()
                written = None
                if main and model.can_generate():
                    options = {"max_new_tokens": 6, "do_sample": False}
                    written = [model.generate(ids, **options, num_beams=beams).tolist() for beams in (1, 3)]
                here[place] = [name, numbers, written, config_class.auto_classes["AutoModel"], True]
                places[place] = [auto_class, kind]
    return here, places


@pytest.fixture(scope="module")
def home_and_away(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    here, places = saved(root)
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, json.dumps(places)],
        capture_output=True, text=True, cwd=root,
        env={"PATH": "/usr/bin:/bin", "HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return here, json.loads(result.stdout.splitlines()[-1])


def test_every_head_says_the_same_without_the_package_and_carries_its_code_on(home_and_away):
    here, away = home_and_away
    assert here.keys() == away.keys() and len(here) >= 17
    for place, (name, numbers, written, base, code) in here.items():
        assert away[place][0] == name
        torch.testing.assert_close(torch.tensor(away[place][1]), torch.tensor(numbers), rtol=1e-5, atol=1e-5)
        assert away[place][2:] == [written, base, code], place


def test_the_map_of_each_saved_head_names_every_auto_class_of_its_family(home_and_away):
    for place in home_and_away[0]:
        with open(f"{place}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        configuration, config_class, modeling = FAMILIES[config["model_type"]]
        assert config["auto_map"] == {"AutoConfig": f"{configuration}.{config_class}"} | {
            auto_class: f"{modeling}.{name}"
            for auto_class, name in load(config["model_type"], config_class).auto_classes.items()
        }
