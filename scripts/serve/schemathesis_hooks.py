"""What schemathesis cannot know: which models there are. Without that, it would only see that there is no such model."""

import schemathesis

from .tools import MODEL


@schemathesis.hook
def before_load_schema(context, schema):
    """Bodies and queries name the model that is served."""
    named(schema)


def named(part):
    if isinstance(part, dict):
        model = part.get("properties", {}).get("model") if isinstance(part.get("properties"), dict) else None
        if isinstance(model, dict) and "/v1/models" not in str(part):
            model["enum"] = [MODEL, None]
        if part.get("name") in ("model", "id") and part.get("in") in ("query", "path"):
            part["schema"] = {"type": "string", "enum": [MODEL]}
        for value in part.values():
            named(value)
    elif isinstance(part, list):
        for value in part:
            named(value)
