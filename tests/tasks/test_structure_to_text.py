"""The structure-to-text specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import structure_to_text

SPECS = {entry.name: entry for entry in structure_to_text.SPECS}

FOG = ["Fog hides the port.", "The port lies in fog."]

# name: (column of the structure, its field, raw value, what the templates see), twice.
STRUCTURES = {
    "common_gen": [
        ("concepts", "concepts", ["fog", "hide", "port"], "fog, hide, port"),
        ("concepts", "concepts", ["fog"], "fog"),
    ],
    "dart": [
        (
            "tripleset",
            "triples",
            ["Port Orm HAS_WEATHER fog", "fog LASTS 3 days [est.]"],
            "Port Orm HAS WEATHER fog; fog LASTS 3 days [est.]",
        ),
        (
            "tripleset",
            "triples",
            ["[TABLECONTEXT] [TITLE] Ports of Orm", "[TABLECONTEXT] PORT_NAME Hule", "Hule WEATHER fog"],
            "TITLE Ports of Orm; PORT NAME Hule; Hule WEATHER fog",
        ),
    ],
    "e2e_nlg": [
        (
            "meaning_representation",
            "attributes",
            "name[Fog & Port], customer rating[5 out of 5], familyFriendly[no]",
            "name = Fog & Port, customer rating = 5 out of 5, familyFriendly = no",
        ),
        ("meaning_representation", "attributes", "name[Fog], priceRange[£20-25]", "name = Fog, priceRange = £20-25"),
    ],
    "web_nlg_en": [
        (
            "input",
            "triples",
            ["Orm,_Northland | weather | Fog", 'Orm,_Northland | areaTotal | "4.0"(square kilometres)'],
            "Orm, Northland | weather | Fog; Orm, Northland | areaTotal | 4.0(square kilometres)",
        ),
        ("input", "triples", ["Fog | hides | Port_(harbour)"], "Fog | hides | Port (harbour)"),
    ],
}


def _row(column: str, value: list[str] | str, target: str, references: list[str]) -> dict:
    return {"gem_id": "x-0", "gem_parent_id": "x-0", column: value, "target": target, "references": references}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize(
    ("references", "answers"),
    [
        ([], ("Fog hides the port.",)),  # train
        (FOG, ("Fog hides the port.", "The port lies in fog.")),  # validation: the target is the first reference
        (["The port lies in fog. "], ("Fog hides the port.", "The port lies in fog.")),
    ],
    ids=["no references", "target among the references", "target not among them"],
)
def test_every_reference_is_accepted_and_the_target_is_the_answer(name, case, references, answers):
    column, field, raw, shown = STRUCTURES[name][case]
    assert SPECS[name].example(_row(column, raw, "Fog hides the port.", references)) == spec.Example(
        fields={field: shown}, answer="Fog hides the port.", options=(), answers=answers
    )


@pytest.mark.parametrize("name", SPECS)
def test_rows_without_a_target_or_a_structure_are_dropped(name):
    column, _, raw, _ = STRUCTURES[name][0]
    assert SPECS[name].example(_row(column, raw, " ", [])) is None  # GEM withholds CommonGen's test targets
    assert SPECS[name].example(_row(column, type(raw)(), "Fog hides the port.", FOG)) is None


def test_every_dataset_is_tested_on_its_validation_split_with_all_references():
    for entry in structure_to_text.SPECS:
        assert entry.splits["test"] == "validation", entry.name
        assert entry.metrics == ("multi_reference_rouge",), entry.name
