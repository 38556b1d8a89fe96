"""A model's chat template, run as vLLM's renderer runs it: in jinja2's sandbox, with the names that templates use."""

import json
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplate:
    """A template that can be rendered.

    Args:
        source: its text.
    """

    def __init__(self, source: str):
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_template_error
        self._template = environment.from_string(source)

    def render(self, **values: Any) -> str:
        """The text of a chat.

        Raises:
            ValueError: the template refuses it.
        """
        try:
            return self._template.render(**values)
        except Exception as error:  # a template is a program: what it does with a strange value is its own affair
            what = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise ValueError(f"messages: the chat template refuses them: {what}") from None


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_template_error(message: str) -> None:
    raise TemplateError(message)
