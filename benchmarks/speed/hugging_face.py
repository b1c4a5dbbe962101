"""Contestant `trl`: TRL's `GRPOTrainer` with PEFT, and `generate` of `transformers`, in an environment of its own."""

import time
from functools import partial

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2ForCausalLM, LogitsProcessor, PreTrainedTokenizerFast, TrainerCallback
from turns import Turns
from workloads import BETA, BOS, EOS, LEARNING_RATE, LORA_RANK, MAX_GRADIENT_NORM, PAD, STOP, Workload, reward

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Forced(LogitsProcessor):
    """Forces the lengths of completions, as forced.py does."""

    def __init__(self, workload: Workload):
        self._workload, self.lengths = workload, None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor(self.lengths)
        ends = input_ids.shape[1] - self._workload.prompt_tokens == lengths - 1
        ends &= lengths < self._workload.limit_tokens
        scores[:, STOP] = torch.where(ends, 1e9, -torch.inf)
        return scores


def step(workload: Workload, turns: Turns) -> None:
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
            assert all(len(ids) == workload.prompt_tokens for ids in output[0]), "TRL changed the prompts' tokens"
            return output

        def _get_per_token_logps_and_entropies(self, *arguments: object, **options: object) -> tuple:
            started = time.perf_counter()
            output = super()._get_per_token_logps_and_entropies(*arguments, **options)
            if not torch.is_grad_enabled():
                turns.phase("reference", time.perf_counter() - started)
            return output

        def _prepare_inputs(self, batch: dict) -> dict:
            inputs = super()._prepare_inputs(batch)
            self.prepared = time.perf_counter()
            return inputs

    class Wait(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            forced.lengths = next(waiting)

        def on_step_end(self, *_: object, **__: object) -> None:
            turns.phase("update", time.perf_counter() - trainer.prepared)
            turns.done(trainer.lengths)

    model = _model(workload)
    forced, waiting = Forced(workload), iter(turns)
    model.generate = partial(model.generate, logits_processor=[forced])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                max_steps=turns.steps,
                per_device_train_batch_size=workload.rows,
                gradient_accumulation_steps=1,
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
            train_dataset=Dataset.from_list([{"prompt": f"<bos> {text}"} for text in workload.prompt_texts()]),
            processing_class=_tokenizer(workload),
            peft_config=LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=MODULES, task_type="CAUSAL_LM"),
            callbacks=[Wait()],
        )
        trainer.train()


def generation(workload: Workload, turns: Turns) -> None:
    """Completes one batch greedily by `generate`."""
    model, forced = _model(workload).eval(), Forced(workload)
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


def _model(workload: Workload) -> Gemma2ForCausalLM:
    """Gemma 2 with random float32 weights. Attention is `eager`: PyTorch's fused attention lacks Gemma's soft cap."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=workload.vocabulary_size,
        hidden_size=workload.embed_dim,
        intermediate_size=workload.hidden_dim,
        num_hidden_layers=workload.num_layers,
        num_attention_heads=workload.num_heads,
        num_key_value_heads=workload.num_kv_heads,
        head_dim=workload.head_dim,
        query_pre_attn_scalar=workload.head_dim,
        sliding_window=workload.window_tokens,
        bos_token_id=BOS,
        eos_token_id=STOP,
        pad_token_id=PAD,
        attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config)


def _tokenizer(workload: Workload) -> PreTrainedTokenizerFast:
    """The same as workloads.Tokenizer: each word is the number of its token."""
    special = {PAD: "<pad>", EOS: "<eos>", BOS: "<bos>", STOP: "<stop>"}
    words = {special.get(token, str(token)): token for token in range(workload.vocabulary_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special[PAD]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        bos_token=special[BOS],
        eos_token=special[STOP],
        pad_token=special[PAD],
    )
