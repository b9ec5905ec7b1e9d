"""The language of what the model wrote: English, with all the foreign names and symbols that its field has in it."""

from quality.gates import failed_gate_names, parse_trajectory
from tests.support.trajectories import call, replaced, think


def test_english_with_foreign_names_acronyms_and_symbols_is_english() -> None:
    for said in (
        "Zhang Wei (张伟) et al. reported a hazard ratio of 0.74 in the trial.", "The αβγ-ENaC and αβγ subunits matter.",
        "ALS tofersen SOD1 ALS VALOR ALS", "Smith et al plus Jones et al semaglutide", "The formulas 血府逐瘀汤 and 补阳还五汤 were used in this study for the stroke patients.",
        "Authors: dos Santos, das Neves, do Amaral, da Silva.", "The words ἀρχή and λόγος are Greek, and the authors explain them at length.", "① first ② second, the ﬁrst eﬀect.",
        "De novo, in vitro and in vivo, by van der Berg and de la Torre.", "Is NOS or iNOS expressed? NOS, NOS1, NOS2.",
    ):  # fmt: skip
        assert failed_gate_names(parse_trajectory(replaced(1, 6, think(said)))) == [], said
    row = replaced(1, 4, call("placenta accreta spectrum PAS MRI PAS het FH het"))
    assert failed_gate_names(parse_trajectory(row)) == []
