"""Gives a trained text model texts: to go on with, to classify, to tag, or to transcribe.

The work directory is all it needs.

python -m experiments.generate --workdir=runs/char_lm --prompt='The ' --length=500 --temperature=0.7
python -m experiments.generate --workdir=runs/names --prompt=Satoshi --prompt=Jackson
python -m experiments.generate --workdir=runs/addition --input=sums.txt --beam=5 --picture=look.png
"""

import sys
from pathlib import Path

from absl import flags

from experiments import command_line
from nn_lib.checks import UserError
from nn_lib.decoding import stream
from nn_lib.train import pictures, restore, texts

WORKDIR = flags.DEFINE_string("workdir", "", "The work directory of a text model.")
PROMPT = flags.DEFINE_multi_string(
    "prompt", ["\n"], "A text; more than one where they are not to go on from."
)
INPUT = flags.DEFINE_string("input", "", "A UTF-8 file with a text a line, instead of --prompt.")
LENGTH = flags.DEFINE_integer("length", 500, "Tokens to write, at most.", lower_bound=0)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.8, "Divides the logits; 0 always takes the likeliest character."
)
TOP_K = flags.DEFINE_integer("top_k", 0, "Sample among the k likeliest; 0 among all.")
TOP_P = flags.DEFINE_float("top_p", 1.0, "Sample among the likeliest that make up this share.")
TOP = flags.DEFINE_integer("top", 3, "Classes to name.", lower_bound=1)
BEAM = flags.DEFINE_integer("beam", 1, "Sequences kept in a beam search; 1 is greedy.")
LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 0.0, "alpha of the beam's ranking.")
PICTURE = flags.DEFINE_string("picture", "", "A PNG to draw, of where attention looked.")
SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.", lower_bound=0, upper_bound=2**32 - 1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
TRUST = flags.DEFINE_list("trust", [], "Packages of yours that config.json may name.")


def main() -> None:
    trained = restore(WORKDIR.value, checkpoint=CHECKPOINT.value, trusted=tuple(TRUST.value))
    facts = trained.facts
    if facts.vocabulary is None:
        raise UserError(
            f"the run in {WORKDIR.value!r} is no text model but a "
            f"{type(trained.experiment.model).__name__}; train one by configs/char_lm.py"
        )
    if facts.class_names is None and facts.target_vocabulary is None:
        go_on(trained)
        return
    given = read_texts()
    if facts.target_vocabulary is not None:
        transcribe(trained, given)
    elif texts.is_tagger(trained):
        for pairs in texts.tag_texts(trained, given):
            print("\n".join(f"{token}\t{tag}" for token, tag in pairs), end="\n\n")
    else:
        for text, best in zip(given, texts.classify_texts(trained, given, TOP.value)):
            shown = "  ".join(f"{name} {share:.1%}" for name, share in best)
            print(f"{text}\t{shown}")


def go_on(trained) -> None:
    """A language model writes on."""
    vocabulary, prompt = trained.facts.vocabulary, PROMPT.value[-1]
    if not prompt:
        raise UserError("--prompt is empty; the model needs a character to go on from")
    if len(PROMPT.value) > 1:
        raise UserError("a language model goes on from one --prompt")
    if not PROMPT.present and "\n" not in vocabulary.tokens:
        prompt = vocabulary.tokens[0]
    tokens = vocabulary.encode(prompt)
    if PROMPT.present:
        print(prompt, end="", flush=True)
    for chunk in stream(
        trained.experiment.model,
        trained.variables,
        tokens,
        LENGTH.value,
        seed=SEED.value,
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
    ):
        sys.stdout.write(vocabulary.decode(chunk))
        sys.stdout.flush()
    print()


def transcribe(trained, given: list[str]) -> None:
    """An encoder-decoder writes; with --beam=K its K best, with their log probabilities."""
    picture = Path(PICTURE.value) if PICTURE.value else None
    if picture and (picture.suffix != ".png" or not picture.absolute().parent.is_dir()):
        raise UserError(f"--picture={picture}: expected a file.png in a folder that is there")
    found = texts.write_texts(
        trained,
        given,
        beam=BEAM.value,
        length_penalty=LENGTH_PENALTY.value,
        max_length=LENGTH.value,
        aligned=picture is not None,
    )
    for text, written in zip(given, found):
        for one in written:
            cut = "" if one.complete else f"\tcut at --length={LENGTH.value}"
            print(f"{text}\t{one.text}\tlog P {one.log_probability:.4f}{cut}")
    if picture:
        looked = [best for best, *_ in found if best.alignment is not None]
        if not looked:
            raise UserError("--picture draws where attention looked, and this model has none")
        print(pictures.alignments(picture, looked[:6]))


def read_texts() -> list[str]:
    """The texts of --input, else of --prompt."""
    if not INPUT.value:
        if not PROMPT.present:
            raise UserError("give it a text: --prompt=TEXT, or --input=FILE with one a line")
        return list(PROMPT.value)
    try:
        lines = Path(INPUT.value).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--input: cannot read {INPUT.value!r}: {error}") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError(f"--input: {INPUT.value!r} holds no text")
    return lines


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))
