"""Samples text from a trained character model; the work directory is all it needs.

python -m experiments.generate --workdir=runs/char_lm --prompt='The ' --length=500 --temperature=0.7
"""

import sys

from absl import flags

from experiments import command_line
from nn_lib.checks import UserError
from nn_lib.decoding import stream
from nn_lib.train import restore

WORKDIR = flags.DEFINE_string("workdir", "", "The work directory of a character model.")
PROMPT = flags.DEFINE_string("prompt", "\n", "The text to go on from.")
LENGTH = flags.DEFINE_integer("length", 500, "Characters to sample.", lower_bound=0)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.8, "Divides the logits; 0 always takes the likeliest character."
)
TOP_K = flags.DEFINE_integer("top_k", 0, "Sample among the k likeliest characters; 0 among all.")
SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.", lower_bound=0, upper_bound=2**32 - 1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
TRUST = flags.DEFINE_list("trust", [], "Packages of yours that config.json may name.")


def main() -> None:
    trained = restore(WORKDIR.value, checkpoint=CHECKPOINT.value, trusted=tuple(TRUST.value))
    vocabulary = trained.facts.vocabulary
    if vocabulary is None:
        raise UserError(
            f"the run in {WORKDIR.value!r} is no character model but a "
            f"{type(trained.experiment.model).__name__}; train one by configs/char_lm.py"
        )
    if not PROMPT.value:
        raise UserError("--prompt is empty; the model needs a character to go on from")
    prompt = PROMPT.value if "\n" in vocabulary.characters or PROMPT.present else None
    tokens = vocabulary.encode(prompt or vocabulary.characters[0])
    if PROMPT.present:
        print(PROMPT.value, end="", flush=True)
    for chunk in stream(
        trained.experiment.model,
        trained.variables,
        tokens,
        LENGTH.value,
        seed=SEED.value,
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
    ):
        sys.stdout.write(vocabulary.decode(chunk))
        sys.stdout.flush()
    print()


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))
