"""What vLLM and SGLang do to a model that they run through its transformers code, done here by a stand-in.

Both build the base model from its configuration without weights, put layers of their own in place of its embeddings
and linear maps, lay the texts of a batch end to end in one row, and answer for the attention of each layer: their
function gets queries, keys and values, and returns the context of all tokens with the heads side by side.
"""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_genai import GenaiBertConfig, GenaiBertModel, GenaiGPTConfig, GenaiGPTForCausalLM

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LAYOUTS = {
    "GPT, modern": (GenaiGPTForCausalLM, GenaiGPTConfig(**SIZES)),
    "GPT-2": (GenaiGPTForCausalLM, GenaiGPTConfig.classic(**SIZES, max_position_embeddings=64)),
    "GPT, plain dot products": (GenaiGPTForCausalLM, GenaiGPTConfig(**SIZES, attention_type="dot")),
    "BERT": (GenaiBertModel, GenaiBertConfig.classic(**SIZES, max_position_embeddings=64)),
    "BERT, modern": (GenaiBertModel, GenaiBertConfig(**SIZES)),
}


class EngineLinear(nn.Module):
    """An engine's linear map: neither a class nor a parameter that the model made."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.matrix = nn.Parameter(torch.empty(linear.out_features, linear.in_features))
        self.offset = nn.Parameter(torch.empty(linear.out_features)) if linear.bias is not None else None

    def forward(self, x):
        return nn.functional.linear(x, self.matrix, self.offset)


class EngineEmbedding(nn.Module):
    """As vLLM's, it knows how many rows it has."""

    def __init__(self, num_embeddings: int, size: int):
        super().__init__()
        self.num_embeddings = num_embeddings
        self.weight = nn.Parameter(torch.empty(num_embeddings, size))

    def forward(self, ids):
        return nn.functional.embedding(ids, self.weight)


class EngineAttention:
    """The attention of one layer over texts that lie end to end: flat queries in, flat contexts out."""

    def __init__(self, heads: int, key_heads: int, lengths: list[int], causal: bool):
        self.heads, self.key_heads, self.lengths, self.causal = heads, key_heads, lengths, causal
        self.scale = None

    def forward(self, query, key, value):
        texts = []
        for q, k, v in zip(*(x.split(self.lengths) for x in (query, key, value)), strict=True):
            q = q.unflatten(1, (self.heads, -1)).transpose(0, 1)
            k, v = (x.unflatten(1, (self.key_heads, -1)).transpose(0, 1) for x in (k, v))
            found = nn.functional.scaled_dot_product_attention(
                *(q, k, v), scale=self.scale, is_causal=self.causal, enable_gqa=True
            )
            texts.append(found.transpose(0, 1).flatten(1))
        return torch.cat(texts)


def engine_attention(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
    own = attention_instances[module.layer_idx]
    own.scale = scaling
    tokens = query.shape[-2]
    return own.forward(*(x.transpose(1, 2).reshape(tokens, -1) for x in (query, key, value))), None


def replace_layers(module: nn.Module, plan: dict[str, str], prefix: str = "") -> set[str]:
    """Put engine layers in place of linear maps; return the styles that a plan has for them."""
    styles = set()
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.Linear):
            setattr(module, name, EngineLinear(child))
            numbers = ["*" if part.isdigit() else part for part in path.split(".")]
            styles.add(plan.get(".".join(numbers), "replicate"))
        else:
            styles |= replace_layers(child, plan, f"{path}.")
    return styles


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "engine", engine_attention)


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_engine_that_answers_for_attention_and_linear_maps_gets_what_the_model_gives(layout, engine, tmp_path):
    cls, config = LAYOUTS[layout]
    torch.manual_seed(0)
    source = cls(config).eval()
    source.save_pretrained(tmp_path)
    texts = [torch.randint(3, 60, (length,)) for length in (7, 4, 9)]
    wanted = torch.cat([source.base_model(text.unsqueeze(0)).last_hidden_state[0] for text in texts])

    config = AutoConfig.from_pretrained(tmp_path, attn_implementation="engine")
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    styles = replace_layers(model, config.base_model_tp_plan)
    assert {"colwise", "rowwise"} <= styles <= {"colwise", "rowwise", "replicate"}
    model.set_input_embeddings(EngineEmbedding(config.vocab_size, config.hidden_size))
    weights = source.base_model.state_dict()
    names = {"weight": "matrix", "bias": "offset"}
    model = model.to_empty(device="cpu").eval()
    if model.rotary_emb is not None:  # engines leave buffers as the model made them
        model.rotary_emb.inv_freq.copy_(source.base_model.rotary_emb.inv_freq)
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        found = {f"{path}.{old}": weights.get(f"{path}.{old}") for old, new in names.items() if new == last}
        parameter.copy_(weights[name] if not found else next(iter(found.values())))

    causal = cls is GenaiGPTForCausalLM
    assert all(layer.self_attn.is_causal == causal for layer in model.layers)
    lengths = [len(text) for text in texts]
    heads = config.num_attention_heads, config.num_key_value_heads
    outputs = model(
        input_ids=torch.cat(texts).unsqueeze(0),
        position_ids=torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
        attention_instances={
            index: EngineAttention(*heads, lengths, causal) for index in range(config.num_hidden_layers)
        },
        use_cache=False,
        return_dict=False,
    )
    torch.testing.assert_close(outputs[0][0], wanted, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_number_is_looked_at_while_a_cuda_graph_is_recorded(layout, monkeypatch):
    """A number that is read, if only for a check, would end the recording with an error."""
    cls, config = LAYOUTS[layout]
    model = cls(config).eval()
    ids, places = torch.randint(3, 60, (1, 12)), torch.arange(12).unsqueeze(0)
    inputs = {"input_ids": ids, "position_ids": places, "attention_mask": torch.ones_like(ids)}
    wanted = model(**inputs, use_cache=False)[0]

    def refuse(self):
        raise AssertionError("a number is read")

    monkeypatch.setattr("transformers.utils.import_utils.is_cuda_stream_capturing", lambda: True)
    for name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    found = model(**inputs, use_cache=False)[0]
    monkeypatch.undo()
    torch.testing.assert_close(found, wanted)


def test_an_engine_finds_the_class_that_it_compiles():
    with torch.device("meta"):
        model = AutoModel.from_config(GenaiGPTConfig(**SIZES))
    assert type(model.get_decoder()) is type(model)
