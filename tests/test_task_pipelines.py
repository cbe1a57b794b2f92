"""Pipelines for labels, tags, answers, masked words and chat, each on a model of ours that was saved in a folder."""

import math

import pytest
import tiny_rnn
import tiny_transformer as tiny
import torch
import transformers
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import Chat

from hf_genai import pipeline
from hf_genai.data import train_tokenizer
from hf_genai.objectives.dialogue import CHAT_TEMPLATE
from hf_genai.question_answering import QuestionAnsweringPipeline, _aligned
from hf_genai.registry import FAMILIES, load

TEXTS = ["the cat sat on the mat", "a dog ran over the hills and far away today", "red"]
CONTEXT = "a dog ran over the hills and far away. The cat sat on the mat all day, and saw no dog."
LABELS = dict(enumerate(["B-animal", "I-animal", "O"]))


@pytest.fixture(scope="module")
def tokenizer():
    made = train_tokenizer([*TEXTS, CONTEXT] * 2, vocab_size=300, model_max_length=64)
    made.add_special_tokens({"mask_token": "<mask>"})
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture
def save(tokenizer, tmp_path):
    """A function that returns the folder of a tiny model of a family with the head of an Auto class."""

    def make(family, auto_class, **fields):
        sizes = tiny_rnn.SIZES if family == "genai_rnn" else {**tiny.SIZES, "max_position_embeddings": 64}
        sizes = {**sizes, **fields, "vocab_size": len(tokenizer)}
        layers = {} if family == "genai_rnn" else tiny.HALVES if family == "genai_t5" else tiny.LAYERS
        config_class = load(family, FAMILIES[family][1])
        torch.manual_seed(0)
        model = getattr(transformers, auto_class).from_config(config_class(**layers, **sizes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # away from 0, so that answers differ
                parameter.mul_(4.0)
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return make


def alone(folder, auto_class, text):
    """The logits of one text, without any pipeline."""
    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_texts_come_with_their_probabilities_best_first(family, save):
    auto_class = "AutoModelForSequenceClassification"
    folder = save(family, auto_class, id2label=LABELS)
    pipe = pipeline("text-classification", folder)
    rows = pipe(TEXTS, top_k=None, batch_size=2)
    for text, row in zip(TEXTS, rows, strict=True):
        wanted = alone(folder, auto_class, text).softmax(-1)
        assert [own["score"] for own in row] == pytest.approx(sorted(wanted.tolist(), reverse=True), abs=1e-5)
        assert row[0]["label"] == LABELS[int(wanted.argmax())]
    assert [row["label"] for row in pipe(TEXTS)] == [row[0]["label"] for row in rows]
    assert len(pipe(TEXTS[0], top_k=2)) == 2


def test_several_labels_have_probabilities_of_their_own(save):
    auto_class = "AutoModelForSequenceClassification"
    folder = save("genai_bert", auto_class, id2label=LABELS, problem_type="multi_label_classification")
    found = {row["label"]: row["score"] for row in pipeline("text-classification", folder)(TEXTS[0], top_k=None)}
    assert list(map(found.get, LABELS.values())) == pytest.approx(
        alone(folder, auto_class, TEXTS[0]).sigmoid().tolist()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_words_get_one_tag_whatever_the_pieces_and_the_batch(family, save):
    auto_class = "AutoModelForTokenClassification"
    folder = save(family, auto_class, id2label=LABELS)
    pipe = pipeline("token-classification", folder, ignore_labels=[])
    text = "the cat sat extraordinarily still"
    tokens = pipe(text)
    assert [LABELS[int(guess)] for guess in alone(folder, auto_class, text).argmax(-1)][: len(tokens)] == [
        token["entity"] for token in tokens
    ]
    words = pipe([TEXTS[1], text], aggregation_strategy="first", batch_size=2)[1]
    assert " ".join(text[word["start"] : word["end"]] for word in words) == text
    assert len(pipe(text, aggregation_strategy="average")) <= len(text.split()) < len(tokens)


def test_masked_words_are_filled_in(save, tokenizer):
    folder = save("genai_bert", "AutoModelForMaskedLM")
    pipe = pipeline("fill-mask", folder)
    texts = ["the <mask> sat", "a dog ran over the <mask> and far"]
    rows = pipe(texts, top_k=3, batch_size=2)
    for text, row in zip(texts, rows, strict=True):
        place = tokenizer(text)["input_ids"].index(tokenizer.mask_token_id)
        wanted = alone(folder, "AutoModelForMaskedLM", text)[place].softmax(-1).topk(3)
        assert [own["token"] for own in row] == wanted.indices.tolist()
        assert [own["score"] for own in row] == pytest.approx(wanted.values.tolist(), abs=1e-5)


def test_in_a_text_to_fill_the_mask_alone_is_a_token_and_no_control_token_fills_it(save, tokenizer):
    pipe = pipeline("fill-mask", save("genai_bert", "AutoModelForMaskedLM"))
    with torch.no_grad():  # control tokens first
        pipe.model.get_output_embeddings().bias[:4] += 1000.0
    text = "the <s>cat</s> <mask> on <unk>"
    ids = pipe.preprocess(text)["input_ids"][0].tolist()
    assert [token for token in ids if token in tokenizer.all_special_ids] == [tokenizer.mask_token_id, 2]
    control = {*tokenizer.all_special_ids}
    assert len(pipe(text, top_k=7)) == 7
    for row in pipe(text, top_k=7):
        assert row["token"] not in control and row["sequence"].startswith("the <s>cat</s>")
    several = pipe("the <mask> sat <mask> mat", top_k=2)
    assert [len(rows) for rows in several] == [2, 2]
    assert not {row["token"] for rows in several for row in rows} & control
    assert pipe(text, targets=["a"])[0]["token"] == tokenizer.get_vocab()["a"]


def test_a_chat_is_answered_with_what_is_typed_as_text(save, tokenizer):
    folder = save("genai_gpt", "AutoModelForCausalLM")
    pipe = pipeline("text-generation", folder)
    chat = [{"role": "user", "content": "red</s>\n<mask>"}]
    prompt = Chat(chat)
    ids = pipe.preprocess(prompt)["input_ids"][0].tolist()
    assert [token for token in ids if token in tokenizer.all_special_ids] == [2]
    assert pipe.tokenizer.decode(ids).count("</s>") == 2


@pytest.mark.parametrize("family", ["genai_gpt", "genai_rnn"])
def test_texts_and_chats_are_continued_alone_and_in_batches(family, save, tokenizer):
    folder = save(family, "AutoModelForCausalLM")
    pipe = pipeline("text-generation", folder, max_new_tokens=4, do_sample=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    def wanted(text, **how):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)

    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    answers = [pipe(chat)[0]["generated_text"] for chat in chats]
    for chat, answer in zip(chats, answers, strict=True):
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert answer[:-1] == chat
        assert answer[-1] == {"role": "assistant", "content": wanted(prompt)}
    pipe.tokenizer.padding_side = "left"
    assert [row[0]["generated_text"] for row in pipe(chats, batch_size=3)] == answers


def span_reference(model, tokenizer, question, context, longest, aligned=False):
    """Every span of one window with its probability: the product of two softmaxes over the context's tokens."""
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**encoded)
    sides = encoded.sequence_ids(0)
    inside = [place for place, side in enumerate(sides) if side == 1 and offsets[place][0] < offsets[place][1]]
    found: dict[str, float] = {}
    start, end = (
        {place: math.exp(logits[0, place]) for place in [0, *inside]}
        for logits in (output.start_logits, output.end_logits)
    )
    for first in inside:
        for last in inside:
            if first <= last < first + longest:
                text = context[offsets[first][0] : offsets[last][1]].strip()
                share = start[first] / sum(start.values()) * end[last] / sum(end.values())
                found[text.lower()] = found.get(text.lower(), 0.0) + share
    return found, start[0] / sum(start.values()) * end[0] / sum(end.values())


@pytest.mark.parametrize("family", ["genai_bert", "genai_gpt", "genai_t5"])
def test_answers_are_the_likeliest_spans_with_their_probability_and_place(family, save, tokenizer):
    folder = save(family, "AutoModelForQuestionAnswering")
    pipe = pipeline("question-answering", folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    spans, nothing = span_reference(model, tokenizer, "who sat?", CONTEXT, 15)
    asked = {"question": "who sat?", "context": CONTEXT}
    rows = pipe(asked, top_k=1000, align_to_words=False)
    assert {row["answer"].lower(): row["score"] for row in rows} == pytest.approx(spans, rel=1e-3)
    assert all(CONTEXT[row["start"] : row["end"]] == row["answer"] == row["answer"].strip() for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    short = pipe(asked, top_k=1000, align_to_words=False, max_answer_len=2)
    assert {row["answer"].lower() for row in short} == set(span_reference(model, tokenizer, "who sat?", CONTEXT, 2)[0])
    with_none = pipe(asked, top_k=1000, align_to_words=False, handle_impossible_answer=True)
    assert len(with_none) == len(rows) + 1
    assert {"score": pytest.approx(nothing, rel=1e-3), "start": 0, "end": 0, "answer": ""} in with_none
    best = pipe(asked)
    assert isinstance(best, dict) and set(best) == {"score", "start", "end", "answer"}
    assert {"", *best["answer"].split()} <= {
        "",
        *CONTEXT.split(),
        *CONTEXT.replace(".", " .").replace(",", " ,").split(),
    }


def test_long_contexts_come_in_windows_whose_best_answer_wins(save, tokenizer):
    pipe = pipeline("question-answering", save("genai_bert", "AutoModelForQuestionAnswering"), align_to_words=False)
    asked = {"question": "who?", "context": CONTEXT}
    windows = list(pipe.preprocess(asked, max_seq_len=20, doc_stride=6))
    assert len(windows) > 1 and [window["is_last"] for window in windows] == [False] * (len(windows) - 1) + [True]
    spans = [[span for span in window["window"].tokens if span] for window in windows]
    assert spans[1][0][0] < spans[0][-1][1]  # they overlap
    covered = "".join(CONTEXT[a:b] for a, b in sorted({span for own in spans for span in own}))
    assert covered == CONTEXT.replace(" ", "")  # a token's characters begin after its space
    best = [pipe.postprocess([pipe.forward(window)]) for window in windows]
    whole = pipe(asked, max_seq_len=20, doc_stride=6, top_k=50)
    assert whole[0]["score"] >= max(own["score"] for own in best) - 1e-6
    assert {own["answer"].lower() for own in best} <= {own["answer"].lower() for own in whole}


@pytest.mark.parametrize(
    ("context", "word", "token", "expected"),
    [
        ("He saw strawberries.", "strawberries", "berr", "strawberries"),
        ("第7回の旅行で大阪へ行って蕎麦を食べました", "旅行で大阪へ行って蕎麦を食べました", "大阪", "大阪"),
        ("彼はTokyoへ行った", "彼はTokyoへ行った", "ky", "Tokyo"),
        ("그는 서울에서 산다", "서울에서", "서울", "서울"),
        ("เขาอยู่ที่กรุงเทพในปีนี้", "เขาอยู่ที่กรุงเทพในปีนี้", "กรุงเทพ", "กรุงเทพ"),
        ("Он живёт в Москве.", "Москве", "оскв", "Москве"),
    ],
)
def test_tokens_grow_to_words_in_scripts_that_have_spaces_between_them(context, word, token, expected):
    begin, start = context.index(token), context.index(word)
    found = _aligned(context, (begin, begin + len(token)), (start, start + len(word)))
    assert context[slice(*found)] == expected


def test_parts_of_one_word_do_not_take_the_place_of_other_answers(save):
    pipe = pipeline("question-answering", save("genai_bert", "AutoModelForQuestionAnswering"))
    for asked in ("who?", "where?", "what?"):
        found = pipe({"question": asked, "context": "strawberries, raspberries and blackberries"}, top_k=4)
        assert len({row["answer"] for row in found}) == 4


@pytest.mark.parametrize(("limit", "longest"), [(64, 64), (512, 384)])
def test_windows_are_as_long_as_the_model_takes_and_at_most_384_tokens(limit, longest, save, tokenizer):
    folder = save("genai_bert", "AutoModelForQuestionAnswering", max_position_embeddings=limit)
    pipe = pipeline("question-answering", folder)
    pipe.tokenizer.model_max_length = 512
    windows = list(pipe.preprocess({"question": "What?", "context": CONTEXT * 20}))
    assert max(window["input_ids"].shape[1] for window in windows) == longest


def test_windows_that_would_not_move_on_are_refused(save, tokenizer):
    pipe = pipeline("question-answering", save("genai_bert", "AutoModelForQuestionAnswering"))
    least = len(tokenizer("who?")["input_ids"]) + 1 + 6 + 1  # another special token, what is shared, what is new
    asked = {"question": "who?", "context": CONTEXT, "doc_stride": 6}
    assert pipe(**asked, max_seq_len=least)["answer"]
    with pytest.raises(ValueError, match=rf"max_seq_len \({least - 1}\) must be above doc_stride"):
        pipe(**asked, max_seq_len=least - 1)


def test_questions_come_one_by_one_in_lists_datasets_and_batches_padded_on_either_side(save):
    pipe = pipeline("question-answering", save("genai_gpt", "AutoModelForQuestionAnswering"))
    questions, contexts = ["who sat?", "where did it run, and how far?"], [CONTEXT, TEXTS[1]]
    rows = [{"question": one, "context": text} for one, text in zip(questions, contexts, strict=True)]
    wanted = [pipe(row) for row in rows]
    assert pipe(question=questions[0], context=CONTEXT) == wanted[0]
    assert pipe(rows) == pipe(question=questions, context=contexts) == wanted
    assert list(pipe(row for row in rows)) == wanted
    assert pipe(question=questions, context=CONTEXT)[0] == wanted[0]
    for side in ("right", "left"):
        pipe.tokenizer.padding_side = side
        for one, own in zip(pipe(rows, batch_size=3, max_seq_len=40, doc_stride=8, top_k=3), rows, strict=True):
            again = pipe(own, max_seq_len=40, doc_stride=8, top_k=3)
            assert [answer["answer"] for answer in one] == [answer["answer"] for answer in again]
            assert [answer["score"] for answer in one] == pytest.approx(
                [answer["score"] for answer in again], rel=1e-4
            )


def test_what_cannot_be_answered_is_refused(save, tokenizer):
    folder = save("genai_bert", "AutoModelForQuestionAnswering")
    pipe = pipeline("question-answering", folder)
    for given, message in [
        ({}, "give either inputs, or question and context"),
        ({"question": "who?"}, "context is missing"),
        ({"question": "who?", "context": " "}, "context must be a text that is not empty, got ' '"),
        ({"question": ["who?"], "context": [CONTEXT] * 2}, "question has 1 texts, but context 2"),
        ({"inputs": "who?"}, "inputs must be a mapping, or a list"),
        ({"inputs": []}, "at least one question, got none"),
        ({"inputs": [{"question": "who?"}]}, "mappings with question and context"),
        ({"question": "who?", "context": CONTEXT, "topk": 2}, "topk: no argument of question answering"),
        ({"question": "who?", "context": CONTEXT, "top_k": 0}, "top_k must be at least 1, got 0"),
        ({"question": "who?", "context": CONTEXT, "max_seq_len": 9, "doc_stride": 8}, r"max_seq_len \(9\) must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(**given)
    with pytest.raises(ValueError, match="tokenizer must be a fast one"):
        QuestionAnsweringPipeline(pipe.model)
    with pytest.raises(ValueError, match="target_tokenizer: question-answering writes no text"):
        pipeline("question-answering", folder, target_tokenizer=folder)
    other = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match="a head for question answering, got GenaiBertForTokenClassification"):
        pipeline("question-answering", other, tokenizer=tokenizer)(question="who?", context=CONTEXT)


HALF = "a\ud83d b"
PROBLEM = r" has '\\ud83d' at character 2: half of a surrogate pair"


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("fill-mask", "AutoModelForMaskedLM"),
        ("token-classification", "AutoModelForTokenClassification"),
        ("text-classification", "AutoModelForSequenceClassification"),
        ("feature-extraction", "AutoModel"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_with_the_number_of_its_text(task, head, save):
    pipe = pipeline(task, save("genai_bert", head))
    good = "the cat <mask>"
    for given, number in ((HALF, 1), ([good, HALF], 2), ((text for text in [good, good, HALF]), 3)):
        with pytest.raises(ValueError, match=f"text {number}{PROBLEM}"):
            list(pipe(given))
    assert pipe([good, "a \U0001f600 <mask>"])


def test_half_of_a_surrogate_pair_in_prompts_chats_and_questions_is_refused(save):
    pipe = pipeline("text-generation", save("genai_gpt", "AutoModelForCausalLM"), max_new_tokens=2)
    with pytest.raises(ValueError, match=f"text 2{PROBLEM}"):
        pipe(["the cat", HALF])
    chat = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": HALF}]
    with pytest.raises(ValueError, match=f"text 1, part 2, content{PROBLEM}"):
        pipe(chat)
    pipe = pipeline("question-answering", save("genai_bert", "AutoModelForQuestionAnswering"))
    with pytest.raises(ValueError, match=f"context 2{PROBLEM}"):
        pipe(question=["who?", "who?"], context=[CONTEXT, HALF])
    with pytest.raises(ValueError, match=f"question 1{PROBLEM}"):
        pipe(question=HALF, context=CONTEXT)
