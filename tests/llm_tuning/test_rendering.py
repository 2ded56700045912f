from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llm_tuning.rendering import RenderedDialogue, make_renderer
from llm_tuning.rows import Conversation, DataError, Example, Turn

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>' + messages[0].content + '<</SYS>>' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}<s>[INST] {{ (system if loop.first else '') + m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
)
STRIPS_THINKING = (  # as the templates of reasoning models do: only after the last question is it kept
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 < last.user %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}{{ ('<s>' if loop.first else '') + '<|start_header_id|>' + m.role "
    "+ '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "<s>{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI_3 = (  # ends whatever is no prompt with the end-of-text token
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (  # the system text stands in the last question
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "<s>{% for m in turns %}{% if m.role == 'user' %}"
    "[INST] {{ (system if loop.index0 >= turns|length - 2 else '') + m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (  # puts empty thoughts before an answer to the last question
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > last.user %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_ROLES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
EXAMPLE = Example("Add 1 and 2", "3")


def make_tokenizer(chat_template: str | None = None, eos_token: str | None = "</s>") -> PreTrainedTokenizerFast:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>"]
    tokenizer.add_special_tokens(["<|im_start|>", *ends])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token)
    wrapped.chat_template = chat_template
    return wrapped


def conversation(*contents: str, system: str | None = None) -> Conversation:
    """User and assistant in turn, after the system if there is one."""
    turns = [Turn("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]
    return Conversation((*([] if system is None else [Turn("system", system)]), *turns))


TALK = conversation("Hi", "Hello", "2+2?", "4")


def text_of(dialogue: RenderedDialogue) -> str:
    return "".join(prompt + answer for prompt, answer in dialogue.exchanges)


def content_of(dialogue: RenderedDialogue) -> str:
    """The only prompt without what belongs to the template."""
    ((prompt, _),) = dialogue.exchanges
    return prompt[dialogue.head_characters : len(prompt) - dialogue.tail_characters]


class TestExamples:
    def test_a_template_gives_prompt_and_answer_with_its_end_of_turn(self) -> None:
        text = make_renderer(make_tokenizer(CHATML))(EXAMPLE)
        prompt = "<|im_start|>user\nAdd 1 and 2<|im_end|>\n<|im_start|>assistant\n"
        assert text.exchanges == ((prompt, "3<|im_end|>"),)  # without the line break that the template puts after it
        assert content_of(text) == "Add 1 and 2"

    def test_the_system_text_is_the_templates_own_unless_given(self) -> None:
        tokenizer = make_tokenizer(DEFAULT_SYSTEM)
        for system, start in ((None, "\nBe kind.<|im_end|>\n"), ("Add.", "\nAdd.<|im_end|>\n"), ("", "\n<|im_end|>\n")):
            text = make_renderer(tokenizer, system)(EXAMPLE)
            assert text.exchanges[0][0].startswith(f"<|im_start|>system{start}<|im_start|>user")
            assert content_of(text) == "Add 1 and 2"

    def test_a_template_without_end_of_turn_gets_the_end_of_text(self) -> None:
        assert make_renderer(make_tokenizer(PLAIN_ROLES))(EXAMPLE).exchanges[0][1] == " 3</s>"

    def test_a_template_that_rewrites_the_prompt_falls_back_to_the_completion(self) -> None:
        template = CHATML.replace("<|im_start|>{{", "<|im_start|>{{ messages|length }}{{")
        text = make_renderer(make_tokenizer(template))(EXAMPLE)
        assert text.exchanges[0][0].startswith("<|im_start|>1user")
        assert text.exchanges[0][1] == "3</s>"
        assert not text.is_shortened

    def test_a_template_that_trims_still_finds_its_frame(self) -> None:
        template = CHATML.replace("m.content", "m.content | trim")
        text = make_renderer(make_tokenizer(template))(Example("  Add  ", " 3 "))
        assert content_of(text) == "Add"
        assert text.exchanges[0][1] == "3<|im_end|>"

    def test_a_template_that_refuses_a_system_turn_says_so(self) -> None:
        template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
        with pytest.raises(DataError, match=r"accept the turns system, user, got: no system role; .*remove `system`"):
            make_renderer(make_tokenizer(template), "Add.")(EXAMPLE)

    def test_without_a_template_prompt_and_completion_are_plain(self) -> None:
        render = make_renderer(make_tokenizer())
        assert render(EXAMPLE) == RenderedDialogue((("Add 1 and 2\n", "3</s>"),))
        assert render(Example("Add 1 and 2:", " 3")).exchanges == (("Add 1 and 2:", " 3</s>"),)
        assert render(Example("Add 1 and 2: ", "3")).exchanges == (("Add 1 and 2: ", "3</s>"),)
        assert render(Example("", "3")).exchanges == (("", "3</s>"),)
        with pytest.raises(DataError, match="expected a tokenizer with a chat template for a system text"):
            make_renderer(make_tokenizer(), "Add.")

    def test_an_answer_must_be_able_to_end(self) -> None:
        with pytest.raises(DataError, match="expected a tokenizer with an end-of-text token"):
            make_renderer(make_tokenizer(eos_token=None))


class TestConversations:
    @pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA_2, PLAIN_ROLES, None])
    def test_one_question_and_answer_are_an_example(self, template: str | None) -> None:
        render = make_renderer(make_tokenizer(template))
        got = render(conversation("Add 1 and 2", "3"))
        if template is not None:
            assert got == render(EXAMPLE)
        else:  # with roles, as there may be more turns in the next
            assert got.exchanges == (("User: Add 1 and 2\n\nAssistant:", " 3</s>"),)

    def test_every_answer_is_learnt_with_the_end_of_its_turn(self) -> None:
        dialogue = make_renderer(make_tokenizer(CHATML))(TALK)
        assert dialogue.exchanges == (
            ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello<|im_end|>"),
            ("\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", "4<|im_end|>"),
        )
        assert (dialogue.head_characters, dialogue.tail_characters) == (17, 33)
        assert not dialogue.is_shortened

    @pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA_2, PLAIN_ROLES])
    @pytest.mark.parametrize("row", [TALK, conversation("a", "b", "c", "d", "e", "f"), conversation("a", "b")])
    def test_the_text_is_what_the_template_makes_of_the_conversation(self, template: str, row: Conversation) -> None:
        tokenizer = make_tokenizer(template)
        dialogue = make_renderer(tokenizer)(row)
        turns = [{"role": turn.role, "content": turn.content} for turn in row.turns]
        assert text_of(dialogue).removesuffix("</s>") == tokenizer.apply_chat_template(
            turns, tokenize=False
        ).rstrip().removesuffix("</s>")
        assert len(dialogue.exchanges) == len(row.turns) // 2

    def test_llama_2_repeats_its_first_token_between_the_turns(self) -> None:
        dialogue = make_renderer(make_tokenizer(LLAMA_2))(conversation("Hi", "Hello", "2+2?", "4", system="Be brief."))
        assert dialogue.exchanges == (
            ("<s>[INST] <<SYS>>Be brief.<</SYS>>Hi [/INST]", " Hello </s>"),
            ("<s>[INST] 2+2? [/INST]", " 4 </s>"),
        )
        assert dialogue.head_characters == len("<s>[INST] <<SYS>>Be brief.<</SYS>>")

    @pytest.mark.parametrize(
        ("template", "answers"),
        [
            (LLAMA_3, ("Hello<|eot_id|>", "4<|eot_id|>")),
            (GEMMA, ("Hello<end_of_turn>", "4<end_of_turn>")),
            (PHI_3, ("Hello<|end|>", "4<|end|>\n</s>")),
            (MISTRAL, (" Hello</s>", " 4</s>")),
            (QWEN_3, ("<think>\n\n</think>\n\n4<|im_end|>",)),  # what is thought before is not repeated
        ],
    )
    def test_the_turns_of_well_known_models(self, template: str, answers: tuple[str, ...]) -> None:
        tokenizer = make_tokenizer(template)
        dialogue = make_renderer(tokenizer)(TALK)
        assert tuple(answer for _, answer in dialogue.exchanges) == answers
        turns = [{"role": turn.role, "content": turn.content} for turn in TALK.turns]
        assert text_of(dialogue) == str(tokenizer.apply_chat_template(turns, tokenize=False)).rstrip("\n")
        assert dialogue.is_shortened == (len(answers) == 1)
        prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        assert text_of(dialogue).removesuffix(answers[-1]) == prompt  # as the model is asked later

    def test_a_system_text_that_moves_leaves_the_last_answer(self) -> None:
        dialogue = make_renderer(make_tokenizer(MISTRAL))(conversation("Hi", "Hello", "2+2?", "4", system="Be kind."))
        assert dialogue.exchanges == (("<s>[INST] Hi[/INST] Hello</s>[INST] Be kind.\n\n2+2?[/INST]", " 4</s>"),)
        assert dialogue.is_shortened

    def test_a_template_that_strips_thinking_leaves_the_last_answer(self) -> None:
        render = make_renderer(make_tokenizer(STRIPS_THINKING))
        thoughtful = conversation("Hi", "<think>A greeting.</think>Hello", "2+2?", "<think>Sum.</think>4")
        dialogue = render(thoughtful)
        ((prompt, answer),) = dialogue.exchanges
        assert answer == "<think>Sum.</think>4<|im_end|>"
        assert "A greeting" not in prompt  # as the model will see it
        assert "Hello<|im_end|>" in prompt
        assert dialogue.is_shortened
        assert dialogue.head_characters == len("<|im_start|>user\n")
        assert len(render(TALK).exchanges) == 2  # nothing to strip
        assert not render(conversation("2+2?", "<think>Sum.</think>4")).is_shortened

    def test_the_system_text_is_for_conversations_without_one(self) -> None:
        render = make_renderer(make_tokenizer(CHATML), "Be brief.")
        own = render(conversation("Hi", "Hello", system="Be kind."))
        assert own.exchanges[0][0].startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")
        given = render(TALK)
        assert given.exchanges[0][0].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
        assert content_of(own) == "Hi"

    def test_turns_without_end_tokens_end_as_the_template_ends_them(self) -> None:
        dialogue = make_renderer(make_tokenizer(PLAIN_ROLES))(TALK)
        assert dialogue.exchanges == (("user: Hi\nassistant:", " Hello"), ("\nuser: 2+2?\nassistant:", " 4</s>"))

    def test_an_opening_turn_of_the_assistant_is_not_learnt(self) -> None:
        turns = (Turn("assistant", "Welcome!"), *TALK.turns)
        dialogue = make_renderer(make_tokenizer(CHATML))(Conversation(turns))
        assert dialogue.exchanges[0][0].startswith("<|im_start|>assistant\nWelcome!<|im_end|>\n<|im_start|>user\nHi")
        with pytest.raises(
            DataError, match="expected a turn before the assistant's, got the turns assistant; add a user"
        ):
            make_renderer(make_tokenizer(CHATML))(Conversation(turns[:1]))

    def test_what_a_template_refuses_is_told(self) -> None:
        turns = (Turn("user", "Hi"), Turn("user", "Hey"), Turn("assistant", "Hello"))
        with pytest.raises(DataError, match="accept the turns user, user, got: roles must alternate"):
            make_renderer(make_tokenizer(LLAMA_2))(Conversation(turns))

    def test_without_a_template_turns_have_names(self) -> None:
        row = conversation("Hi", "Hello", "2+2?", "4", system="Be brief.")
        assert make_renderer(make_tokenizer())(row) == RenderedDialogue(
            (
                ("Be brief.\n\nUser: Hi\n\nAssistant:", " Hello</s>"),
                ("\n\nUser: 2+2?\n\nAssistant:", " 4</s>"),
            )
        )
