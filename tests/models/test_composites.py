"""transformers' encoder-decoders of two models, with our GPT or BERT for a decoder: text, pictures, speech to text."""

import pytest
import tiny_transformer as tiny
import torch
import transformers
from tiny_rnn import loud, ragged

import hf_genai

PICTURE = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SPEECH = {
    **{"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    **{"conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 4), "num_conv_pos_embeddings": 4},
    **{"num_conv_pos_embedding_groups": 2, "vocab_size": 19, "num_feat_extract_layers": 2, "mask_time_prob": 0.0},
    **{"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0},
    **{"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
}
GPT = (hf_genai.GenaiGPTConfig, hf_genai.GenaiGPTForCausalLM)
BERT = (hf_genai.GenaiBertConfig, hf_genai.GenaiBertForCausalLM)
DECODERS = {
    "modern": (*GPT, tiny.GPTS["modern"]),
    "classic": (*GPT, tiny.GPTS["classic"]),
    "additive, sinusoidal, post-norm": (*GPT, tiny.GPTS["additive, sinusoidal, post-norm"]),
    "modern BERT": (*BERT, {**tiny.BERTS["modern"], "is_decoder": True}),
    "classic BERT": (*BERT, {**tiny.BERTS["classic"], "is_decoder": True}),
}
COMPOSITES = [("text", layout) for layout in DECODERS]
COMPOSITES += [(kind, layout) for kind in ("picture", "speech") for layout in list(DECODERS)[:3]]


def encoder_and_inputs(kind: str):
    generator = torch.Generator().manual_seed(0)
    if kind == "text":
        ids, mask = ragged(3, 6, 19, "left")
        encoder = hf_genai.GenaiBertModel(hf_genai.GenaiBertConfig(**tiny.SIZES, **tiny.LAYERS))
        return transformers.EncoderDecoderModel, encoder, {"input_ids": ids, "attention_mask": mask}
    if kind == "picture":
        pixels = torch.randn(3, 3, 8, 8, generator=generator)
        encoder = transformers.ViTModel(transformers.ViTConfig(**PICTURE), add_pooling_layer=False)
        return transformers.VisionEncoderDecoderModel, encoder, {"pixel_values": pixels}
    sound = torch.randn(3, 400, generator=generator)
    encoder = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SPEECH))
    return transformers.SpeechEncoderDecoderModel, encoder, {"input_values": sound}


def composite(kind: str, layout: str = "modern"):
    torch.manual_seed(0)
    model_class, encoder, inputs = encoder_and_inputs(kind)
    config_class, decoder_class, choices = DECODERS[layout]
    decoder = decoder_class(config_class(**{**tiny.SIZES, **choices, "add_cross_attention": True}))
    model = model_class(encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = 1, 0, 2
    model.generation_config.update(decoder_start_token_id=1, pad_token_id=0, eos_token_id=2, bos_token_id=1)
    loud(model.decoder, 0.7)
    if kind == "text":
        loud(model.encoder, 0.7)
    if hasattr(model, "enc_to_dec_proj"):
        loud(model.enc_to_dec_proj, 0.7)
    return model.eval(), inputs


@pytest.mark.parametrize(("kind", "layout"), COMPOSITES)
def test_a_composite_learns_writes_with_and_without_a_cache_and_reopens(kind, layout, tmp_path):
    model, inputs = composite(kind, layout)
    options = {"max_new_tokens": 6, "do_sample": False, "no_repeat_ngram_size": 1}
    for beams in (1, 3):
        cached, uncached = (
            model.generate(**inputs, **options, num_beams=beams, use_cache=use) for use in (True, False)
        )
        assert torch.equal(cached, uncached)
        assert len(cached.unique(dim=0)) > 1, "what it writes must depend on what it reads"

    labels = torch.tensor([[5, 6, 7, 2], [8, 9, 2, -100], [4, 2, -100, -100]])
    shifted = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 2], [1, 4, 2, 0]])
    with torch.no_grad():
        outputs = model(**inputs, labels=labels)
        given = model(**inputs, decoder_input_ids=shifted)
    plain = torch.nn.functional.cross_entropy(given.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(outputs.loss, plain)

    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert type(again.decoder) is type(model.decoder)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs, decoder_input_ids=shifted).logits, given.logits)
    assert torch.equal(again.generate(**inputs, **options), model.generate(**inputs, **options))

    model.train()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    silent = [n for n, p in model.decoder.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == []


def test_padding_of_the_source_is_not_seen_by_the_decoder():
    model, inputs = composite("text")
    decoder_input_ids = torch.full((3, 2), 5)
    with torch.no_grad():
        before = model(**inputs, decoder_input_ids=decoder_input_ids).logits
        inputs["input_ids"] = torch.where(inputs["attention_mask"] == 0, 7, inputs["input_ids"])
        after = model(**inputs, decoder_input_ids=decoder_input_ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("decoder", [hf_genai.GenaiGPTForCausalLM, hf_genai.GenaiBertForMaskedLM])
def test_it_is_built_from_saved_parts(decoder, tmp_path):
    encoder = encoder_and_inputs("text")[1]
    encoder.save_pretrained(tmp_path / "encoder")
    decoder(decoder.config_class(**tiny.SIZES)).save_pretrained(tmp_path / "decoder")
    model = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(
        str(tmp_path / "encoder"), str(tmp_path / "decoder")
    )
    assert model.decoder.config.add_cross_attention
    assert model.decoder.model.layers[0].cross_attn.q_proj.weight.isfinite().all()
