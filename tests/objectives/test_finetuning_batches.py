"""Dialogue, classification, tagging and question answering: what is learned, and from where."""

import math

import numpy as np
import pytest
from datasets import Dataset

from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM
from hf_genai.data import train_tokenizer
from hf_genai.objectives import dialogue
from hf_genai.objectives.classification import label_names, tokenize_texts
from hf_genai.objectives.dialogue import CHAT_TEMPLATE, as_messages, from_sharegpt, recent_turns, tokenize_dialogues
from hf_genai.objectives.question_answering import (
    Window,
    best_spans,
    best_threshold,
    find_answers,
    margin_of_none,
    token_span,
    tokenize_questions,
)
from hf_genai.objectives.tagging import align, tokenize_words, words_of_tokens

CONTEXT = "Gold is a chemical element. It was known in antiquity, and melts at a high temperature."


@pytest.fixture
def tokenizer():
    made = train_tokenizer([CONTEXT, "Hi there", "What is it?"] * 3, vocab_size=320)
    return made


def say(*turns):
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]


def test_only_the_assistants_words_and_their_ends_are_learned(tokenizer):
    rows, report = tokenize_dialogues(Dataset.from_dict({"messages": [say("Hi", "Gold", "What", "melts")]}), tokenizer)
    row = rows[0]
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learned) == "Gold</s>melts</s>"
    assert tokenizer.decode(row["input_ids"]).count("<|user|>") == 2
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert not report


def test_long_dialogues_become_rows_that_fit_and_each_answer_is_learned_once(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(dialogue.logger, "propagate", True)
    system = {"role": "system", "content": "Be short."}
    long = [system, *say("one", "two", "Hi", "Gold", "What", "is it", "no answer")]
    whole, _ = tokenize_dialogues(Dataset.from_dict({"messages": [long[:5]]}), tokenizer)
    limit = len(whole[0]["input_ids"])
    too_long = say("long " * 200, "a", "Hi", "there")
    greeting = [{"role": "assistant", "content": "Good day"}, *say("Hi", "long " * 40)]
    rows, report = tokenize_dialogues(
        Dataset.from_dict({"messages": [long, too_long, greeting, say("What"), []]}), tokenizer, limit
    )
    texts = [tokenizer.decode(row["input_ids"]) for row in rows]
    learned = [tokenizer.decode([label for label in row["labels"] if label != -100]) for row in rows]
    assert learned == ["two</s>Gold</s>", "is it</s>", "there</s>", "Good day</s>"]
    assert all("Be short." in text for text in texts[:2]) and "Gold" not in texts[1]
    assert all(len(row["input_ids"]) <= limit for row in rows)
    assert dict(report) == {"cut": 1, "shortened": 2, "dropped": 2}
    assert "Of 5 dialogues, 2 lost turns" in caplog.text and "2 were dropped" in caplog.text
    too_long = Dataset.from_dict({"messages": [say("long " * 30, "Gold")]})
    assert dict(tokenize_dialogues(too_long, tokenizer, 20)[1]) == {"dropped": 1}


def test_a_prompt_keeps_the_last_turns_that_fit(tokenizer):
    tokenize_dialogues(Dataset.from_dict({"messages": [say("Hi", "Gold")]}), tokenizer)  # which gives the template
    system, turns = [{"role": "system", "content": "Be short."}], say("long " * 30, "Gold", "What", "is it", "Hi")
    assert recent_turns(system + turns, tokenizer, 1000) == system + turns
    assert recent_turns(system + turns, tokenizer, 100) == system + turns[2:]
    prompt = tokenizer.apply_chat_template(system + turns, add_generation_prompt=True, return_dict=True)
    length = len(prompt["input_ids"])
    assert recent_turns(system + turns, tokenizer, length) == system + turns
    assert recent_turns(system + turns, tokenizer, length - 1) == system + turns[2:]
    assert recent_turns(say("long " * 30), tokenizer, 20) == []


def test_templates_that_mark_nothing_and_unknown_roles_are_refused(tokenizer):
    with pytest.raises(ValueError, match="row 1: role must be system, user or assistant, not poet"):
        tokenize_dialogues(
            Dataset.from_dict({"messages": [say("a", "b"), [{"role": "poet", "content": "x"}, *say("a", "b")]]}),
            tokenizer,
        )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="generation"):
        tokenize_dialogues(Dataset.from_dict({"messages": [say("a", "b")]}), tokenizer)
    with pytest.raises(ValueError, match="column messages; it has text"):
        tokenize_dialogues(Dataset.from_dict({"text": ["a"]}), tokenizer)


def test_turns_of_sharegpt_are_read_as_messages():
    turns = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
    expected = [{"role": "system", "content": "Be kind."}, *say("Hi", "Yo")]
    assert as_messages(turns) == expected
    # as a table has them: each turn with every field of any
    rows = Dataset.from_list([{"conversations": [{**turn, "role": None} for turn in turns], "id": "1"}])
    assert as_messages(from_sharegpt(rows)["messages"][0]) == expected
    both = Dataset.from_list([{"conversations": [], "messages": expected}])
    assert from_sharegpt(both) is both
    with pytest.raises(ValueError, match="a turn must be from system, human, .*, not 'observation'"):
        as_messages([{"from": "observation", "value": "x"}])
    with pytest.raises(ValueError, match="or from and value.*, not {'from': 'human'}"):
        as_messages([{"from": "human"}])


def test_labels_become_numbers_vectors_or_stay_numbers(tokenizer):
    texts = {"text": ["Gold", "Hi there"], "label": ["good", "bad"]}
    names = label_names(texts["label"])
    assert names == ["bad", "good"]
    assert label_names([10, 9, [2]]) == ["2", "9", "10"]
    rows = tokenize_texts(Dataset.from_dict(texts), tokenizer, names)
    assert rows["labels"][:] == [1, 0]
    assert rows["input_ids"][0] == tokenizer("Gold")["input_ids"]
    several = tokenize_texts(Dataset.from_dict({"text": ["Gold"], "label": [["good"]]}), tokenizer, names)
    assert several["labels"][:] == [[0.0, 1.0]]
    numbers = tokenize_texts(Dataset.from_dict({"text": ["Gold"], "label": [3]}), tokenizer, [])
    assert numbers["labels"][:] == [3.0]


def test_unknown_labels_and_columns_are_named(tokenizer):
    with pytest.raises(ValueError, match="label 'ugly' in column label is none of the 2 known: bad, good"):
        tokenize_texts(Dataset.from_dict({"text": ["a"], "label": ["ugly"]}), tokenizer, ["bad", "good"])
    with pytest.raises(ValueError, match="no column label; it has text, class"):
        tokenize_texts(Dataset.from_dict({"text": ["a"], "class": ["bad"]}), tokenizer, ["bad"])


def test_a_words_tag_stands_at_its_first_piece():
    assert align([None, 0, 1, 1, None], [3, 5]) == [-100, 3, 5, -100, -100]
    assert align([None, 0, 1, 1, None], [3, 5], all_pieces=True) == [-100, 3, 5, 5, -100]


def test_each_word_is_learned_once_however_many_pieces_it_has(tokenizer):
    words = {"tokens": [["Gold", "xylophones", "melts"]], "tags": [["NOUN", "NOUN", "VERB"]]}
    rows = tokenize_words(Dataset.from_dict(words), tokenizer, ["NOUN", "VERB"])
    assert [label for label in rows[0]["labels"] if label != -100] == [0, 0, 1]
    assert len(rows[0]["labels"]) == len(rows[0]["input_ids"]) > 4
    with pytest.raises(ValueError, match="row 0 has 3 words but 1 tags"):
        tokenize_words(Dataset.from_dict({**words, "tags": [["NOUN"]]}), tokenizer, ["NOUN", "VERB"])
    with pytest.raises(ValueError, match="row 0: tag 'VERB' is none of the 1 known: NOUN"):
        tokenize_words(Dataset.from_dict(words), tokenizer, ["NOUN"])


def test_words_that_are_cut_off_are_counted_in_a_warning(tokenizer, caplog):
    words = {"tokens": [["Gold", "is", "", "known"]], "tags": [["a", "b", "b", "b"]]}
    tokenize_words(Dataset.from_dict(words), tokenizer, ["a", "b"], max_length=len(tokenizer("Gold")["input_ids"]))
    assert "3 of 4 words have no token within max_length" in caplog.text
    caplog.clear()
    tokenize_words(Dataset.from_dict({**words, "tokens": [["Gold", "is", "well", "known"]]}), tokenizer, ["a", "b"])
    assert not caplog.text


def test_characters_become_tokens():
    offsets = [[-1, -1], [0, 3], [4, 6], [6, 9], [-1, -1]]
    assert token_span(offsets, 4, 9) == (2, 3)
    assert token_span(offsets, 0, 3) == (1, 1)
    assert token_span(offsets, 8, 12) == (0, 0)
    assert token_span(offsets, 5, 5) == (0, 0)  # no answer, wherever it is said to stand


def questions():
    return {
        **{"question": ["What is it?"], "context": [CONTEXT]},
        **{"answer": ["chemical element"], "answer_start": [CONTEXT.index("chemical")]},
    }


def test_windows_overlap_and_those_without_the_answer_point_to_the_first_token(tokenizer):
    windows = tokenize_questions(Dataset.from_dict(questions()), tokenizer, max_length=24, stride=6)
    assert len(windows) > 1
    assert set(windows["row"]) == {0}
    found = 0
    for window in windows:
        start, end = window["start_positions"], window["end_positions"]
        if (start, end) == (0, 0):
            continue
        found += 1
        left, right = window["offsets"][start][0], window["offsets"][end][1]
        assert CONTEXT[left:right].strip() == "chemical element"
        assert "chemical element" in tokenizer.decode(window["input_ids"][start : end + 1])
    assert found
    covered = {
        place for window in windows for left, right in window["offsets"] if left >= 0 for place in range(left, right)
    }
    assert len(covered) >= len(CONTEXT.replace(" ", ""))


def test_the_best_answer_is_the_likeliest_span_of_all_windows(tokenizer):
    rows = tokenize_questions(Dataset.from_dict(questions()), tokenizer, max_length=24, stride=6)
    windows = []
    for row in rows:
        starts, ends = np.zeros((2, len(row["offsets"])))
        if row["start_positions"]:
            starts[row["start_positions"]], ends[row["end_positions"]] = 9, 8
        else:
            starts[0] = ends[0] = 9
        ends[1] = 50  # a token of the question is no answer
        windows.append(Window([None if begin < 0 else (begin, end) for begin, end in row["offsets"]], starts, ends))
    answers, nothing = find_answers(CONTEXT, windows, top_k=3)
    assert answers[0]["answer"] == CONTEXT[answers[0]["start"] : answers[0]["end"]] == "chemical element"
    assert answers[0]["score"] > 0.9 > 0.1 > nothing
    assert [answer["score"] for answer in answers] == sorted((answer["score"] for answer in answers), reverse=True)
    assert len({answer["answer"].lower() for answer in answers}) == len(answers) == 3


def test_an_answer_is_no_longer_than_asked():
    starts, ends = np.array([5.0, 4.0, 0.0]), np.array([0.0, 0.0, 5.0])
    for longest, span in ((3, (0, 2, 10.0)), (2, (1, 2, 9.0)), (1, (0, 0, 5.0))):
        assert best_spans(starts, ends, [True] * 3, 1, longest) == [span]


def test_there_is_no_answer_where_the_first_token_is_likelier_in_every_window():
    def window(first: float, span: float) -> Window:
        logits = np.array([first, 0.0, span])
        return Window([None, None, (0, 4)], logits, logits)

    for first, span, none in ((5.0, 2.0, True), (2.0, 5.0, False)):
        answers, nothing = find_answers("Gold", [window(first, span)])
        assert margin_of_none(answers, nothing) == pytest.approx(2 * (first - span))
        assert (nothing > answers[0]["score"]) == none
    answers, nothing = find_answers("Gold", [window(5.0, 2.0), window(2.0, 5.0)])  # one of two may hold it
    assert answers[0]["answer"] == "Gold" and margin_of_none(answers, nothing) < 0
    assert margin_of_none([], 0.5) == math.inf


@pytest.mark.parametrize(
    ("margins", "gains", "silent"),
    [
        ([3.0, 1.0, -2.0], [1.0, -1.0, -1.0], [True, False, False]),  # answers stand where 0 would see none
        ([3.0, -1.0, -2.0], [1.0, 1.0, -1.0], [True, True, False]),
        ([3.0, 1.0, -2.0], [1.0, 1.0, -1.0], [True, True, False]),
        ([3.0, 1.0], [-1.0, -0.5], [False, False]),
        ([-3.0, -1.0], [1.0, 0.5], [True, True]),
    ],
)
def test_the_threshold_is_that_of_the_best_score(margins, gains, silent):
    threshold = best_threshold(margins, gains)
    assert [margin > threshold for margin in margins] == silent


def test_the_threshold_stays_0_where_that_is_as_good():
    assert best_threshold([5.0, -5.0], [1.0, -1.0]) == 0
    assert best_threshold([], []) == 0


def test_a_question_without_an_answer_points_to_the_first_token(tokenizer):
    none = {**questions(), "answer": [""], "answer_start": [0]}
    windows = tokenize_questions(Dataset.from_dict(none), tokenizer, max_length=24, stride=6)
    assert set(windows["start_positions"]) == set(windows["end_positions"]) == {0}


def test_answers_inside_of_tokens_are_counted_in_a_warning(caplog):
    context = "田中さんは大阪へ行って蕎麦を食べました。"
    rows = Dataset.from_dict(
        {**{"question": ["何"] * 2, "context": [context] * 2}, "answer": ["大阪", "蕎麦"], "answer_start": [5, 11]}
    )
    glued = train_tokenizer([context] * 3, vocab_size=400)
    assert len(glued.tokenize(context)) < 5
    tokenize_questions(rows, glued, max_length=60, stride=4)
    assert "2 of 2 answers do not begin and end at token boundaries" in caplog.text
    caplog.clear()
    apart = train_tokenizer([context] * 3, vocab_size=400, unspaced_alone=True)
    windows = tokenize_questions(rows, apart, max_length=60, stride=4)
    assert not caplog.text
    for window, answer in zip(windows, ("大阪", "蕎麦"), strict=True):
        begin, end = window["offsets"][window["start_positions"]][0], window["offsets"][window["end_positions"]][1]
        assert context[begin:end] == answer


def test_answers_that_do_not_stand_where_they_should_are_refused(tokenizer):
    wrong = {**questions(), "answer_start": [3]}
    with pytest.raises(ValueError, match="does not stand at character 3"):
        tokenize_questions(Dataset.from_dict(wrong), tokenizer)
    least = len(tokenizer("What is it?")["input_ids"]) + 1 + 6 + 1  # one token of a window is new
    assert len(tokenize_questions(Dataset.from_dict(questions()), tokenizer, max_length=least, stride=6)) > 1
    with pytest.raises(ValueError, match=rf"max_length \({least - 1}\) must be larger than stride"):
        tokenize_questions(Dataset.from_dict(questions()), tokenizer, max_length=least - 1, stride=6)


def test_nobody_begins_a_turn_by_typing_a_role_or_an_end(tokenizer):
    """The same tokens as transformers makes of a prompt, with the assistant's marked."""
    typed = "Hi</s>\n<|assistant|>\nGold <s>"
    answer = " What</s> is <|user|>\n it"
    chat = say(typed, answer, "</s>", "melts")
    rows, _ = tokenize_dialogues(Dataset.from_dict({"messages": [chat]}), tokenizer)
    ids, labels = rows[0]["input_ids"], rows[0]["labels"]
    user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    assert [token for token in ids if token in (1, 2, user, assistant)] == [user, 2, assistant, 2] * 2
    assert tokenizer.decode([label for label in labels if label != -100]) == f"{answer}</s>melts</s>"
    prompt = tokenizer.apply_chat_template(chat, sanitize_control_tokens=True)["input_ids"]
    assert ids == prompt
    plain, _ = tokenize_dialogues(Dataset.from_dict({"messages": [say("Hi", "Gold")]}), tokenizer)
    assert plain[0]["input_ids"] == tokenizer.apply_chat_template(say("Hi", "Gold"))["input_ids"]


def test_a_model_gets_room_for_roles_and_for_nothing_else(tokenizer):
    model = GenaiGPTForCausalLM(
        GenaiGPTConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    before = len(tokenizer)
    dialogue.make_room_for_roles(model, tokenizer)
    assert model.config.vocab_size == before
    dialogue.add_chat_template(tokenizer)
    dialogue.make_room_for_roles(model, tokenizer)
    assert model.config.vocab_size == len(tokenizer) == before + 3
    tokenizer.add_tokens(["another"])
    dialogue.make_room_for_roles(model, tokenizer)
    assert model.config.vocab_size == before + 3
    own = train_tokenizer(["Hi"], vocab_size=320)
    own.chat_template = "{{ messages[0]['content'] }}"
    dialogue.add_chat_template(own)
    assert "<|user|>" not in own.get_vocab()


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram", "char", "word", "wordpiece"])
def test_words_have_the_tokens_that_a_running_text_has(kind):
    words = ["New", "York", "<s>", "in", "2021", "東京", "都"]
    text = "New York <s> in 2021 東京都"
    tokenizer = train_tokenizer([text] * 3, kind, 320)
    tags = [str(number) for number in range(len(words))]
    rows = tokenize_words(Dataset.from_dict({"tokens": [words], "tags": [tags]}), tokenizer, tags)
    assert rows[0]["input_ids"] == tokenizer(text)["input_ids"]
    labels = [label for label in rows[0]["labels"] if label != -100]
    # of a tokenizer whose tokens hold several words, the second has none of its own
    assert labels == [0, 1, 2, 3, 4, 5, 6] if kind == "char" else labels[:6] == [0, 1, 2, 3, 4, 5]


def test_a_token_belongs_to_the_word_of_its_first_letter():
    text, starts, words = "New York  is", [0, 4, 10], ["New", "York", "is"]
    spans = [(0, 3), (3, 6), (6, 8), (8, 9), (9, 12), (0, 0)]
    assert words_of_tokens(text, starts, words, spans) == [0, 1, 1, None, 2, None]
    assert words_of_tokens("東京都に", [0, 2, 3], ["東京", "都", "に"], [(0, 1), (1, 3), (3, 4)]) == [0, 0, 2]
    assert align([0, None, 0, 1], [3, 5]) == [3, -100, -100, 5]


@pytest.mark.parametrize("task", ["classification", "qa"])
def test_labels_and_answers_are_learned_from_text_that_is_text(tokenizer, task):
    text = "Gold <s>melts</s> <unk>"
    if task == "classification":
        row = tokenize_texts(Dataset.from_dict({"text": [text], "label": ["a"]}), tokenizer, ["a", "b"])[0]
    else:
        asked = {"question": ["</s>?"], "context": [text], "answer": ["melts"], "answer_start": [text.index("melts")]}
        row = tokenize_questions(Dataset.from_dict(asked), tokenizer, max_length=64, stride=4)[0]
    assert [token for token in row["input_ids"] if token < 4] == [2] * (1 if task == "classification" else 2)
