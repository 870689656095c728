"""The translation specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec, templates
from flan_jax.tasks import translation

SPECS = {entry.name: entry for entry in translation.SPECS}

# name: (TFDS config, code of the other language, its name)
PAIRS = {
    "para_crawl_enes": ("para_crawl/enes:1.2.0", "es", "Spanish"),
    "wmt16_translate_csen": ("wmt16_translate/cs-en:1.0.0", "cs", "Czech"),
    "wmt16_translate_deen": ("wmt16_translate/de-en:1.0.0", "de", "German"),
    "wmt16_translate_fien": ("wmt16_translate/fi-en:1.0.0", "fi", "Finnish"),
    "wmt16_translate_roen": ("wmt16_translate/ro-en:1.0.0", "ro", "Romanian"),
    "wmt16_translate_ruen": ("wmt16_translate/ru-en:1.0.0", "ru", "Russian"),
    "wmt16_translate_tren": ("wmt16_translate/tr-en:1.0.0", "tr", "Turkish"),
    "wmt14_enfr": ("wmt14_translate/fr-en:1.0.0", "fr", "French"),
}
GREETINGS = {
    "es": ("buenos días", "¡gracias!"),
    "cs": ("dobré ráno", "děkuji!"),
    "de": ("guten Morgen", "danke!"),
    "fi": ("hyvää huomenta", "kiitos!"),
    "ro": ("bună dimineața", "mulțumesc!"),
    "ru": ("доброе утро", "спасибо!"),
    "tr": ("günaydın", "teşekkürler!"),
    "fr": ("bonjour", "merci !"),
}


# The way back: the same rows, for evaluation alone.
BACK = {"wmt14_fren": "wmt14_enfr", "wmt16_translate_de_to_en": "wmt16_translate_deen"}
BACK["wmt16_translate_ro_to_en"] = "wmt16_translate_roen"


def test_these_pairs_are_all():
    assert {entry.name: entry.tfds_name for entry in translation.SPECS} == {
        **{name: pair[0] for name, pair in PAIRS.items()},
        **{name: PAIRS[there][0] for name, there in BACK.items()},
    }


@pytest.mark.parametrize("name", BACK)
def test_the_way_back_has_both_sides_and_languages_exchanged(name):
    row = {"en": " good morning", PAIRS[BACK[name]][1]: "x "}
    there, back = SPECS[BACK[name]].example(row), SPECS[name].example(row)
    assert (back.fields["source"], back.answer) == ("x", "good morning")
    assert back.fields["source_language"] == there.fields["target_language"] != "English"
    assert back.fields["target_language"] == "English"
    assert SPECS[name].example({**row, "en": " "}) is None
    assert (SPECS[name].splits, SPECS[name].collection) == (SPECS[BACK[name]].splits, "extra")


@pytest.mark.parametrize("name", PAIRS)
def test_english_is_put_into_the_other_language(name):
    _, code, language = PAIRS[name]
    morning, thanks = GREETINGS[code]
    languages = {"source_language": "English", "target_language": language}
    assert SPECS[name].example({"en": "good morning", code: morning}) == spec.Example(
        fields={"source": "good morning", **languages}, answer=morning, options=(), answers=(morning,)
    )
    assert SPECS[name].example({"en": " thanks!\n", code: f"{thanks} "}) == spec.Example(
        fields={"source": "thanks!", **languages}, answer=thanks, options=(), answers=(thanks,)
    )


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("english", "other"), [("", "x"), ("x", ""), (" \t", "x"), ("x", "\n")])
def test_a_pair_with_a_blank_side_is_dropped(name, english, other):
    assert SPECS[name].example({"en": english, PAIRS[name][1]: other}) is None


def test_para_crawl_carves_validation_and_test_out_of_the_end_of_train():
    splits = SPECS["para_crawl_enes"].splits
    assert splits == {"train": "train[:30000]", "validation": "train[-1200:-1000]", "test": "train[-1000:]"}


@pytest.mark.parametrize("file", ["para_crawl", "wmt16_translate"])
def test_templates_ask_for_both_directions(file):
    english, other = "The kettle is on.", "Der Kessel steht auf dem Herd."
    example = SPECS["wmt16_translate_deen"].example({"en": english, "de": other})
    assert example is not None
    asked = [(template.reversed, *templates.render(template, example)) for template in templates.load(file)]
    for into_english, inputs, targets in asked:
        source, target, language = (other, english, "English") if into_english else (english, other, "German")
        assert targets == target
        assert source in inputs
        assert target not in inputs
        assert language in inputs  # or nobody could know what is wanted
    assert sum(into_english for into_english, _, _ in asked) == 3
