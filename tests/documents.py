"""Small corpora of documents, and settings that learn them in seconds."""

import json
import random

TYPES = ("string", "integer", "boolean")
TOPICS = ("weather", "music", "travel", "sports")
VERBS = ("get", "list", "update", "delete")


def make_tools(count, seed=0):
    """Tool descriptions: nested objects, a map, a list, an optional key, a union."""
    generator = random.Random(seed)
    tools = []
    for _ in range(count):
        topic, verb = generator.choice(TOPICS), generator.choice(VERBS)
        names = generator.sample(["city", "day", "limit", "user", "kind", "page"], 3)
        arguments = {
            name: {"type": generator.choice(TYPES), "description": f"The {name} of the {topic}."}
            for name in names[: generator.randint(1, 3)]
        }
        tool = {
            "name": f"{verb}_{topic}",
            "category": topic,
            "parameters": arguments,
            "required": list(arguments)[:1],
            "price": generator.choice([0, 0.5, 1.25, None]),
        }
        if generator.random() < 0.5:
            tool["version"] = generator.randint(1, 3)
        tools.append(tool)
    return tools


def make_code(count, seed=0):
    """Small Python functions."""
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        name, argument = generator.choice(["add", "scale", "check"]), generator.choice("abxy")
        number = generator.randint(1, 20)
        body = {
            "add": f"return {argument} + {number}",
            "scale": f"result = {argument} * {number}\n    return result",
            "check": f"if {argument} > {number}:\n        return True\n    return False",
        }[name]
        found.append(f"def {name}_{number}({argument}):\n    {body}\n")
    return found


def write_lines(path, records):
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


# Small models, few steps.
SETTINGS = {
    "codec": {"document_vocab_size": 400, "max_document_tokens": 128},
    "vae": {
        "width": 32,
        "num_layers": 2,
        "num_heads": 2,
        "encoder_layers": 1,
        "latent_dim": 4,
        "num_prompts": 2,
        "batch_rows": 8,
        "max_tokens": 60_000,
        "evaluate_every_steps": 40,
        "valid_rows": 16,
    },
    "diffusion": {"num_steps": 40, "width": 32, "batch_rows": 64},
    "generation": {"num_rows": 40, "batch_rows": 16, "shard_rows": 32},
    "evaluation": {"max_rows": 300},
}


def documents_config(folder, kind="json", count=240, **sections):
    """A run on a small corpus written to `folder`."""
    from difflm_core.config_file import build_config

    records = make_tools(count) if kind == "json" else [{"code": text} for text in make_code(count)]
    source = write_lines(folder / "records.jsonl", records)
    values = {name: dict(section) for name, section in SETTINGS.items()}
    for name, changes in sections.items():
        values.setdefault(name, {}).update(changes)
    data = {"kind": kind, "source": source, "test_fraction": 0.2, "valid_fraction": 0.1}
    values["data"] = data | values.get("data", {})
    values["output"] = str(folder / "run")
    values["runtime"] = {"threads": 1, "precision": "float32"} | values.get("runtime", {})
    return build_config(values)
