"""Contestant `trl`: TRL's `GRPOTrainer` with PEFT, and `generate` of `transformers`, in an environment of its own."""

import time
from functools import partial

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from turns import Turns
from workloads import BETA, LEARNING_RATE, MAX_GRADIENT_NORM, Workload, reward

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Forced(LogitsProcessor):
    """Forces the lengths of completions, as forced.py does."""

    def __init__(self, workload: Workload):
        self._workload, self.lengths = workload, None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor(self.lengths)
        ends = input_ids.shape[1] - self._workload.prompt_tokens == lengths - 1
        ends &= lengths < self._workload.limit_tokens
        scores[:, self._workload.stop] = torch.where(ends, 1e9, -torch.inf).to(scores.dtype)
        return scores


def step(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Makes GRPO steps by `GRPOTrainer.train`; its callbacks wait for their turn."""
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    class Timed(GRPOTrainer):
        """Times TRL's own methods; the update is what follows the batch's preparation."""

        def _generate(self, prompts: list) -> tuple:
            started = time.perf_counter()
            output = super()._generate(prompts)
            turns.phase("rollout", time.perf_counter() - started)
            self.lengths = [len(ids) for ids in output[1]]
            assert all(ids in workload.prompt_ids() for ids in output[0]), "TRL changed the prompts' tokens"
            return output

        def _get_per_token_logps_and_entropies(self, *arguments: object, **options: object) -> tuple:
            started = time.perf_counter()
            output = super()._get_per_token_logps_and_entropies(*arguments, **options)
            if not torch.is_grad_enabled():
                turns.phase("reference", time.perf_counter() - started)
            return output

        def _prepare_inputs(self, batch: dict) -> dict:
            inputs = super()._prepare_inputs(batch)
            self.prepared = self.prepared or time.perf_counter()  # of the step's first micro-batch, which samples all
            return inputs

    class Wait(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            forced.lengths, trainer.prepared = next(waiting), None

        def on_step_end(self, *_: object, **__: object) -> None:
            turns.phase("update", time.perf_counter() - trainer.prepared)
            turns.done(trainer.lengths)

    model, micro_batches = (
        _model(workload, options),
        workload.prompts // (workload.micro_batch_prompts or workload.prompts),
    )
    forced, waiting = Forced(workload), iter(turns)
    model.generate = partial(model.generate, logits_processor=[forced])
    special = _special_words(workload)
    prompts = [" ".join(special.get(token, str(token)) for token in ids) for ids in workload.prompt_ids()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16="bfloat16" in options,
                gradient_checkpointing="checkpointing" in options,
                max_steps=turns.steps,
                per_device_train_batch_size=workload.rows // micro_batches,
                gradient_accumulation_steps=micro_batches,
                num_generations=workload.generations,
                max_completion_length=workload.limit_tokens,
                temperature=1.0,
                beta=BETA,
                loss_type="grpo",
                learning_rate=LEARNING_RATE,
                max_grad_norm=MAX_GRADIENT_NORM,
                shuffle_dataset=False,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": text} for text in prompts]),
            processing_class=_tokenizer(workload),
            peft_config=LoraConfig(
                r=workload.lora_rank, lora_alpha=workload.lora_rank, target_modules=MODULES, task_type="CAUSAL_LM"
            ),
            callbacks=[Wait()],
        )
        trainer.train()


def generation(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes one batch greedily by `generate`."""
    model, forced = _model(workload, options).eval(), Forced(workload)
    ids = torch.tensor(workload.prompt_ids())
    for forced.lengths in turns:
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=workload.limit_tokens,
            logits_processor=[forced],
        )
        turns.done([output.shape[1] - workload.prompt_tokens] * len(output))


def answers(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes prompts greedily by `generate`, in batches of prompts of similar length."""
    model, rows = _model(workload, options).eval(), next(int(option) for option in options if option.isdecimal())
    turns.facts |= {"rows": rows, "weight_bytes": sum(each.nbytes for each in model.parameters())}
    for count in turns:
        prompts, lengths = sorted(workload.prompt_ids()[:count], key=len), []
        for start in range(0, count, rows):
            lengths += _complete(model, prompts[start : start + rows], workload)
        turns.done(lengths)


def _complete(model: PreTrainedModel, prompts: list[list[int]], workload: Workload) -> list[int]:
    """The lengths of the prompts' completions, with their stop tokens."""
    width, lengths = max(map(len, prompts)), []
    output = model.generate(
        input_ids=torch.tensor([[workload.pad] * (width - len(ids)) + ids for ids in prompts]),
        attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
        do_sample=False,
        max_new_tokens=workload.limit_tokens,
    )
    for row in output[:, width:].tolist():
        lengths.append(row.index(workload.stop) + 1 if workload.stop in row else len(row))
    return lengths


def _model(workload: Workload, options: list[str]) -> PreTrainedModel:
    """The model with published weights, or random ones."""
    dtype = torch.bfloat16 if "bfloat16" in options else torch.float32
    torch.manual_seed(0)
    sizes = {
        "vocab_size": workload.vocabulary_size,
        "hidden_size": workload.embed_dim,
        "intermediate_size": workload.hidden_dim,
        "num_hidden_layers": workload.num_layers,
        "num_attention_heads": workload.num_heads,
        "num_key_value_heads": workload.num_kv_heads,
        "bos_token_id": workload.bos,
        "eos_token_id": workload.stop,
        "pad_token_id": workload.pad,
    }
    if workload.weights:
        model = Qwen2ForCausalLM.from_pretrained(workload.weights, dtype=dtype)
    elif workload.family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, head_dim=workload.head_dim, tie_word_embeddings=True))
    else:
        # Attention is `eager`: PyTorch's fused attention lacks Gemma's soft cap.
        config = Gemma2Config(
            **sizes,
            head_dim=workload.head_dim,
            query_pre_attn_scalar=workload.head_dim,
            sliding_window=workload.window_tokens,
            attn_implementation="eager",
        )
        model = Gemma2ForCausalLM(config)
    # A published model's own defaults (sampling, penalties, other stop tokens) are not ours.
    model.generation_config = GenerationConfig(
        bos_token_id=workload.bos, eos_token_id=workload.stop, pad_token_id=workload.pad
    )
    return model.to(dtype)


def _special_words(workload: Workload) -> dict[int, str]:
    special = {workload.pad: "<pad>", workload.stop: "<stop>"}
    return special if workload.bos is None else special | {workload.eos: "<eos>", workload.bos: "<bos>"}


def _tokenizer(workload: Workload) -> PreTrainedTokenizerFast:
    """As workloads.Tokenizer: each word is the number of its token. Special tokens have names: "0" is in "10" too."""
    special = _special_words(workload)
    words = {special.get(token, str(token)): token for token in range(workload.vocabulary_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special[workload.pad]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        bos_token=special.get(workload.bos),
        eos_token=special[workload.stop],
        pad_token=special[workload.pad],
    )
