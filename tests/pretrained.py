"""A small pretrained language model, made on the spot and saved as an ordinary folder."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)


def make_language_model(folder, texts, *, kind="llama", steps=150, chat=False, seed=0):
    """Train a small Llama or Mistral on texts, and save it with its tokenizer.

    Args:
        folder: Where it is saved.
        texts: What it learns.
        kind: Architecture; both have fewer heads of keys than of queries.
        steps: Training steps of 16 texts.
        chat: Whether its tokenizer has a chat template.
        seed: Of weights and order.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chat:
        wrapped.chat_template = (
            "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant] {% endif %}"
        )
    size = {
        "vocab_size": wrapped.vocab_size,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed(seed)
    model = (
        LlamaForCausalLM(LlamaConfig(**size))
        if kind == "llama"
        else MistralForCausalLM(MistralConfig(**size, sliding_window=None))
    )
    ids = [[0, *encoding.ids[:160], 1] for encoding in tokenizer.encode_batch(texts)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = [ids[i] for i in torch.randint(len(ids), (16,), generator=generator).tolist()]
        width = max(map(len, batch))
        tokens = torch.tensor([row + [1] * (width - len(row)) for row in batch])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return float(loss.detach())
