"""Writes tests/fixtures/templates.json: what transformers makes of templates in the styles of well-known models.

    pip install transformers jinja2
    python3 scripts/templates.py

Each case has a template, messages, and transformers' text of them: without and with the generation prompt, and what its
assistant mask marks where the template has `generation` blocks. The tests of src/text/chat.rs compare kinglet with it.
"""

import json
from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

from transformers.utils import chat_template_utils as chat

TIME = 1767355445  # 2026-01-02 12:04:05 UTC
BOS, EOS = "<s>", "</s>"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "chatml, a default system message": (
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
        "{%- else %}\n"
        "    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}\n"
        "{%- endif %}\n"
        "{%- for message in messages %}\n"
        "    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) "
        "or (message.role == 'assistant' and not message.tool_calls) %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\\n' }}\n"
        "{%- endif %}\n"
    ),
    "chatml, generation blocks": (
        "{% for message in messages %}\n"
        "{{- '<|im_start|>' + message.role + '\n' -}}\n"
        "{% if message.role == 'assistant' %}\n"
        "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}\n"
        "{%- else -%}\n"
        "{{ message.content }}<|im_end|>\n"
        "{%- endif %}\n"
        "{{ '\n' }}\n"
        "{%- endfor %}\n"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "generation blocks in a macro, white space": (
        "{% macro say(m) %}\n"
        "  {%- if m.role == 'assistant' %}\n"
        "A:\n"
        "    {% generation %}\n"
        "{{ m.content | trim }}{{ eos_token }}\n"
        "    {%- endgeneration +%}\n"
        "\n"
        "  {% else %}\n"
        "U: {{ m.content }}\n"
        "  {% endif %}\n"
        "{% endmacro %}\n"
        "{{ bos_token }}\n"
        "{% for m in messages %}{{ say(m) }}{% endfor %}\n"
        "{% if add_generation_prompt %}A:\n{% endif %}"
    ),
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "llama-3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        "+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama-3.1, the date": (
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}\n"
        "    {%- set date_string = strftime_now('%d %b %Y') %}\n"
        "{%- endif %}\n"
        "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}\n"
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n"
        "{%- else %}\n"
        "    {%- set system_message = '' %}\n"
        "{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
        "{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}\n"
        "{{- 'Today Date: ' + date_string + '\\n\\n' }}\n"
        "{{- system_message }}\n"
        "{{- '<|eot_id|>' }}\n"
        "{%- for message in messages %}\n"
        "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n"
        "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        "+ message['content'] | trim + '<|eot_id|>' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
        "{%- endif %}\n"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
        "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% for message in rest %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "zephyr": (
        "{% for message in messages %}\n"
        "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
        "{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
        "{% endfor %}"
    ),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content'] %}\n"
        "    {%- set loop_messages = messages[1:] %}\n"
        "{%- else %}\n"
        "    {%- set loop_messages = messages %}\n"
        "{%- endif %}\n"
        "{%- set ns = namespace(index=0) %}\n"
        "{{- bos_token }}\n"
        "{%- for message in loop_messages %}\n"
        "    {%- if not (message.role == 'tool' or message.role == 'tool_results') %}\n"
        "        {%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}\n"
        "            {{- raise_exception('roles must alternate') }}\n"
        "        {%- endif %}\n"
        "        {%- set ns.index = ns.index + 1 %}\n"
        "    {%- endif %}\n"
        "    {%- if message['role'] == 'user' %}\n"
        "        {%- if system_message is defined and loop.first %}\n"
        "            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}\n"
        "        {%- else %}\n"
        "            {{- '[INST] ' + message['content'] + '[/INST]' }}\n"
        "        {%- endif %}\n"
        "    {%- elif message['role'] == 'assistant' %}\n"
        "        {{- ' ' + message['content'] + eos_token }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
    ),
    "json": (
        "{% set more = {'b': [1, 2.5, none, true], 'a': {}, 'é': [], 'c': {'<&\\'>': 'x'}} %}"
        "{% for message in messages %}{{ message | tojson }}\n{{ message | tojson(indent=2) }}\n"
        "{{ message.content | tojson(ensure_ascii=True) }}\n{% endfor %}"
        "{{ more | tojson }}|{{ more | tojson(indent=4) }}|{{ more | tojson(separators=(',', ':'), sort_keys=True) }}|"
        "{{ messages | length | tojson }}"
    ),
    "loops that break off and go on": (
        "{% for message in messages %}"
        "{% if message.role == 'system' %}{% continue %}{% endif %}"
        "{% for word in message.content.split(' ') %}{% if word == '4' %}{% break %}{% endif %}{{ word }},{% endfor %}"
        "{{ message.role[0] | upper }}{{ eos_token }}\n"
        "{% endfor %}"
    ),
}

USER, ASSISTANT = "user", "assistant"
TALK = [("system", "Be brief."), (USER, " What is 2+2? "), (ASSISTANT, "4"), (USER, "<b>\"Ünï\"\n& 3+3?"), (ASSISTANT, "It is 6.\n")]
CONVERSATIONS = [TALK, TALK[1:], TALK[1:3]]


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(TIME, tz or timezone.utc)


def rendered(template, messages, **options):
    messages = [{"role": role, "content": content} for role, content in messages]
    with mock.patch.object(chat, "datetime", Clock):
        return chat.render_jinja_template(
            conversations=[messages], chat_template=template, bos_token=BOS, eos_token=EOS, **options
        )


cases = []
for name, template in TEMPLATES.items():
    for messages in CONVERSATIONS:
        (text,), _ = rendered(template, messages)
        (prompt,), _ = rendered(template, messages[:-1], add_generation_prompt=True)
        case = {"name": name, "template": template, "messages": messages, "text": text, "prompt": prompt}
        # Inside of a macro, transformers 5.24 marks other characters than the block's.
        if "{% generation" in template and "{% macro" not in template:
            (text,), (spans,) = rendered(template, messages, return_assistant_tokens_mask=True)
            assert text == case["text"]
            case["learned"] = [text[a:b] for a, b in spans]
        cases.append(case)

out = Path(__file__).resolve().parent.parent / "tests/fixtures/templates.json"
out.write_text(json.dumps({"time": TIME, "bos": BOS, "eos": EOS, "cases": cases}, indent=1, ensure_ascii=False) + "\n")
print(f"{len(cases)} cases, {out.stat().st_size} bytes")
