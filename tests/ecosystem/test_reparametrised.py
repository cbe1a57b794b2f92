"""Weights that a hook makes anew before each call, as pruning does: the fast paths must not read the old ones."""

import copy

import pytest
import torch
from tiny_cases import cases
from torch import nn
from torch.nn.utils import parametrize, prune

NAMES = [
    *("GenaiRNNForConditionalGeneration-lstm, general fed, reversed source", "GenaiRNNForCausalLM-gru, two layers"),
    *("GenaiBertForMaskedLM-classic", "GenaiGPTForCausalLM-modern", "GenaiT5ForConditionalGeneration-classic"),
]
CASES = dict(cases())


class Masked(nn.Module):
    """Pruning without a hook: the weight is masked whenever it is read."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_model_trains_as_one_whose_weights_are_masked(name):
    case = CASES[name]
    more = {} if case.family == "genai_rnn" else {"attention_probs_dropout_prob": 0.0}
    pruned = case.loud_model(std=0.3, dropout=0.0, **more)
    masked, batch = copy.deepcopy(pruned), case.batch("right", labels=True)
    generator = torch.Generator().manual_seed(0)
    for part, name in [(part, name) for name, part in pruned.named_modules() if isinstance(part, nn.Linear)]:
        mask = (torch.rand(part.weight.shape, generator=generator) > 0.3).float()
        prune.custom_from_mask(part, "weight", mask)
        parametrize.register_parametrization(masked.get_submodule(name), "weight", Masked(mask))
    losses = []
    for model in (pruned, masked):
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
        for _ in range(3):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-4)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_hook_on_the_head_sees_every_logit_of_the_training(name):
    case, seen = CASES[name], []
    model, batch = case.model().train(), case.batch("right", labels=True)
    model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits))
    model(**batch)
    assert [logits.shape[-1] for logits in seen] == [model.config.vocab_size]
    assert seen[0].shape[:-1].numel() >= (batch["labels"] != -100).sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_hook_on_all_modules_sees_each_linear_map_and_may_change_what_it_gives(name):
    """As a profiler's; a hook on one module is the plain way."""
    case = CASES[name]
    model, batch, seen = case.loud_model(std=0.3).train(), case.batch("right", labels=True), set()
    plain = model(**batch).loss
    maps = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    twice = {module: module.register_forward_hook(lambda module, given, made: 2 * made) for module in maps}
    expected = model(**batch).loss
    for hook in twice.values():
        hook.remove()

    def double(module, given, made):
        seen.add(module)
        return 2 * made if module in maps else None

    hook = nn.modules.module.register_module_forward_hook(double)
    try:
        found = model(**batch).loss
    finally:
        hook.remove()
    assert [name for module, name in maps.items() if module not in seen] == []
    torch.testing.assert_close(found, expected)
    assert abs(found - plain) > 1e-3
