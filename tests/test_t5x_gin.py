"""The gin files for the real t5x, which no package index has: every binding is held against its signatures.

`SIGNATURES` are those of t5x cc342d4 (2026-04-21) as far as the files bind them. gin itself reads the files, over modules
with these signatures in t5x's place.
"""

import json
import re
import subprocess
import sys

import pytest
from gin import config_parser

from flan_jax import config
from flan_jax.data import mixtures

FOLDER = config.shipped_gin_dir() / "t5x"
FILES = sorted(FOLDER.glob("*.gin"))
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")

# Module -> name -> (arguments without a default, arguments with one).
SIGNATURES = {
    "__main__": {
        "train": (
            "model train_dataset_cfg train_eval_dataset_cfg infer_eval_dataset_cfg checkpoint_cfg partitioner "
            "trainer_cls model_dir total_steps eval_steps eval_period random_seed summarize_config_fn",
            "relative_steps stats_period use_hardware_rng inference_evaluator_cls get_dataset_fn concurrent_metrics "
            "actions train_eval_get_dataset_fn run_eval_before_training train_state_initializer_cls use_orbax "
            "verify_matching_vocabs_fn gc_period",
        )
    },
    "t5x.utils": {
        "DatasetConfig": (
            "mixture_or_task_name task_feature_lengths split batch_size shuffle seed",
            "use_cached pack use_custom_packing_ops module use_memory_cache trim_output_features "
            "runtime_preprocessors num_prefetch_threads num_workers",
        ),
        "CheckpointConfig": ("", "save restore"),
        "SaveCheckpointConfig": (
            "",
            "dtype period checkpoint_steps keep keep_dataset_checkpoints save_dataset checkpointer_cls "
            "state_transformation_fns checkpoint_manager_cls",
        ),
        "RestoreCheckpointConfig": (
            "path",
            "mode assignment_map strict fallback_to_scratch dtype restore_dataset checkpointer_cls "
            "state_transformation_fns checkpoint_manager_cls",
        ),
        "create_learning_rate_scheduler": (
            "",
            "factors base_learning_rate warmup_steps decay_factor steps_per_decay steps_per_cycle step_offset "
            "min_learning_rate",
        ),
    },
    "t5x.trainer": {
        "Trainer": (
            "model train_state partitioner eval_names summary_dir train_state_axes rng learning_rate_fn "
            "num_microbatches",
            "weight_metrics_computer",
        )
    },
    "t5x.partitioning": {
        "PjitPartitioner": (
            "",
            "num_partitions model_parallel_submesh params_on_devices backend ici_mesh_shape dcn_mesh_shape "
            "logical_axis_rules",
        ),
        "standard_logical_axis_rules": (
            "",
            "activation_partitioning_dims parameter_partitioning_dims additional_rules",
        ),
    },
    "t5x.adafactor": {
        "Adafactor": (
            "",
            "learning_rate factored multiply_by_parameter_scale beta1 decay_rate step_offset clipping_threshold "
            "weight_decay_rate min_dim_size_to_factor epsilon1 epsilon2 dtype_momentum factor_map "
            "logical_factor_rules weight_decay_rate_lr_exponent global_norm_clip_threshold max_parameter_scale "
            "skip_nan_updates",
        ),
        "standard_logical_factor_rules": ("", ""),
    },
    "t5x.models": {
        "EncoderDecoderModel": (
            "module input_vocabulary output_vocabulary optimizer_def",
            "decode_fn feature_converter_cls label_smoothing z_loss loss_normalizing_factor default_decoder_params",
        ),
        "DecoderOnlyModel": (
            "module vocabulary optimizer_def",
            "decode_fn inputs_bidirectional_attention feature_converter_cls label_smoothing z_loss "
            "loss_normalizing_factor",
        ),
    },
    "t5x.decoding": {
        "temperature_sample": (
            "inputs cache tokens_to_logits eos_id",
            "decode_rng num_decodes temperature topk topp cache_offset initial_index max_decode_steps "
            "max_decode_steps_hard_limit rescale_log_probs state_callback_fn logit_callback_fn",
        )
    },
    "t5x.gin_utils": {"summarize_gin_config": ("model_dir summary_writer step", "")},
    "t5x.examples.t5.network": {
        "T5Config": (
            "vocab_size",
            "dtype emb_dim num_heads num_encoder_layers num_decoder_layers head_dim mlp_dim mlp_activations "
            "dropout_rate logits_via_embedding float32_attention_logits",
        ),
        "Transformer": ("config", "parent name"),
    },
    "t5x.examples.decoder_only.network": {
        "TransformerConfig": (
            "vocab_size",
            "dtype emb_dim num_heads num_layers head_dim mlp_dim mlp_activations dropout_rate logits_via_embedding",
        ),
        "DecoderWrapper": ("config", "parent name"),
    },
    "seqio": {
        "Evaluator": (
            "mixture_or_task_name feature_converter",
            "eval_split use_cached seed sequence_length num_examples shuffle logger_cls log_dir use_memory_cache "
            "async_compute_metrics target_field_name",
        ),
        "JSONLogger": ("output_dir", "write_n_results json_encoder_cls"),
        "PyLoggingLogger": ("output_dir", ""),
        "TensorBoardLogger": ("output_dir", ""),
        "SentencePieceVocabulary": (
            "sentencepiece_model_file",
            "extra_ids normalizer_spec_overrides reverse_extra_ids use_fast_tokenizer",
        ),
    },
}
# What t5x's users override from the command line: the macros of its own run and model files.
MACROS = (
    "MODEL MODEL_DIR INITIAL_CHECKPOINT_PATH MIXTURE_OR_TASK_MODULE MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS TRAIN_STEPS "
    "BATCH_SIZE DROPOUT_RATE RANDOM_SEED LABEL_SMOOTHING Z_LOSS LOSS_NORMALIZING_FACTOR OPTIMIZER VOCABULARY EVAL_PERIOD "
    "EVAL_STEPS EVALUATOR_NUM_EXAMPLES EVALUATOR_USE_MEMORY_CACHE JSON_WRITE_N_RESULTS USE_CACHED_TASKS USE_HARDWARE_RNG"
)
# Stands in for t5x/train.py: its modules with the signatures above, whose every call gives its arguments back.
RUN = """
import inspect, json, sys, types
import gin

signatures, path, bindings = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def stand_in(module, name, required, optional):
    parameter = lambda name, **default: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, **default)
    parameters = [parameter(p) for p in required.split()] + [parameter(p, default=None) for p in optional.split()]
    signature = inspect.Signature(parameters)
    def call(**given):
        signature.bind(**given)
        return {"is": name, **given}
    call.__signature__, call.__name__, call.__qualname__, call.__module__ = signature, name, name, module
    return call

for module, members in signatures.items():
    if module == "seqio":
        continue
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        parent = ".".join(parts[:end])
        if parent not in sys.modules:
            sys.modules[parent] = types.ModuleType(parent)
            sys.modules[parent].__path__ = []
            if end > 1:
                setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], sys.modules[parent])
    for name, (required, optional) in members.items():
        setattr(sys.modules[module], name, stand_in(module, name, required, optional))

run = gin.configurable(train)
gin.parse_config_files_and_bindings([path], bindings)
found = run()
trainer = dict.fromkeys("model train_state partitioner eval_names summary_dir train_state_axes rng".split())
found["trainer_cls"] = found["trainer_cls"](**trainer)
found["inference_evaluator_cls"].__name__
import seqio
print(json.dumps({
    "found": found,
    "mixtures": [found[c]["mixture_or_task_name"] in seqio.MixtureRegistry.names()
                 for c in ("train_dataset_cfg", "infer_eval_dataset_cfg")],
}, default=lambda value: getattr(value, "__name__", type(value).__name__)))
"""


class Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as text: nothing is imported or called."""

    def configurable_reference(self, scoped_name, evaluate):
        return f"@{scoped_name}{'()' if evaluate else ''}"

    def macro(self, name):
        return f"%{name}"


def statements(path) -> list:
    with open(path, encoding="utf-8") as file:
        return list(config_parser.ConfigParser(file, Delegate()))


def own(path) -> dict[str, object]:
    """The bindings of one file, without those of the files that it includes."""
    found: dict[str, object] = {}
    for statement in statements(path):
        if isinstance(statement, config_parser.BindingStatement):
            name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
            found[f"{name}.{statement.arg_name}" if statement.arg_name else name] = statement.value
    return found


def bindings(path) -> dict[str, object]:
    found: dict[str, object] = {}
    for statement in statements(path):
        if isinstance(statement, config_parser.IncludeStatement):
            found |= bindings(FOLDER / statement.filename)
    return found | own(path)


def imported(path) -> dict[str, str]:
    """Name in the file -> module. An included file's imports do not count: gin keeps them apart."""
    imports = [s for s in statements(path) if isinstance(s, config_parser.ImportStatement)]
    return {s.alias or s.module.rsplit(".", 1)[-1]: s.module for s in imports}


def problems(path, found: dict[str, object]) -> list[str]:
    """What of these bindings of a file t5x would not take."""
    modules, said = imported(path), []
    selectors = [name.split("/")[-1].rsplit(".", 1) for name in found if "." in name]
    selectors += [[ref, ""] for value in found.values() for ref in re.findall(r"@(?:\w+/)?([\w.]+)", str(value))]
    for selector, argument in selectors:
        module, _, name = selector.partition(".")
        members = SIGNATURES.get(modules.get(module, ""), {})
        if name not in members:
            said.append(f"{selector}: not in {modules.get(module)}")
        elif argument and argument not in " ".join(members[name]).split():
            said.append(f"{selector} has no {argument}")
    return said


def test_the_files_are_there():
    assert [path.stem for path in FILES] == ["decoder_only", "flan_t5_small", "flan_t5_xl"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_binding_is_one_of_t5x(path):
    assert problems(path, own(path)) == []
    found = bindings(path)
    macros = {name for value in found.values() for name in re.findall(r"%([A-Z_]+)", str(value))}
    assert macros <= set(found)
    # A macro that nothing reads would take an override in silence.
    assert set(MACROS.split()) <= set(found)
    assert set(MACROS.split()) <= macros


def test_what_is_not_of_t5x_is_found():
    path = FOLDER / "flan_t5_small.gin"
    assert problems(path, {"network.T5Config.emb_dims": 1, "utils.DataConfig.pack": 1, "a.b": "@decoding.beam()"}) == [
        "network.T5Config has no emb_dims",
        "utils.DataConfig: not in t5x.utils",
        "a: not in None",
        "decoding.beam: not in None",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_gin_binds_it_all(path):
    """With nothing but what the header of a file says has to be given, gin calls everything with all that it requires."""
    given = ['MODEL_DIR="/run"', 'INITIAL_CHECKPOINT_PATH="/old/checkpoint_5"', "Z_LOSS=0.5", "EVAL_PERIOD=7"]
    arguments = [json.dumps(SIGNATURES), path.name, json.dumps(given)]
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    found = result["found"]
    assert result["mixtures"] == [True, True]
    assert found["model"]["z_loss"] == 0.5
    assert found["eval_period"] == found["checkpoint_cfg"]["save"]["period"] == 7
    assert found["checkpoint_cfg"]["restore"]["path"] == "/old/checkpoint_5"
    assert found["trainer_cls"]["learning_rate_fn"]["factors"] == "constant"
    assert (found["train_dataset_cfg"]["pack"], found["infer_eval_dataset_cfg"]["pack"]) == (True, False)
    emb_dim = {"flan_t5_small": 512, "flan_t5_xl": 2048, "decoder_only": 768}
    assert found["model"]["module"]["config"]["emb_dim"] == emb_dim[path.stem]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mixtures_exist_and_do_not_leak(path):
    from flan_jax.data import holdout

    found = bindings(path)
    train, evaluated = str(found["MIXTURE_OR_TASK_NAME"]), str(found["EVAL_MIXTURE"])
    assert found["MIXTURE_OR_TASK_MODULE"] == "flan_jax.tasks.register"
    clusters = {CATALOGUE.tasks[task].dataset.cluster for task in CATALOGUE.mixture(evaluated).tasks}
    assert clusters == {"nli"}
    assert holdout.heldout_leaks(CATALOGUE, train, "nli") == []
