"""Made-up drugs, diseases, and papers about them: what is asked and answered here can be known by reading alone."""

import random

ONSETS = "b br c d dr f fl g gr h k kl l m n p pr r s st t tr v z".split()
VOWELS = "a e i o u ia io".split()
DRUGS = "mab tinib statin olol sartan vir".split()
DISEASES = "itis osis emia pathy algia uria".split()
OUTCOMES = ["survival", "relapse", "bleeding", "mortality", "remission", "pain"]
STUDIES = ["a cohort study", "a randomized trial", "a pooled analysis"]
SURNAMES = ["Vadou", "Marlin", "Brosk", "Tenari", "Quill", "Ostrel"]
JOURNALS = ["Lancet", "BMJ", "Gut", "Blood", "Thorax"]


def name(chance: random.Random, endings: list[str]) -> str:
    """Of a drug or a disease."""
    return "".join(chance.choice(ONSETS) + chance.choice(VOWELS) for _ in range(2)) + chance.choice(endings)


def pmid(chance: random.Random) -> str:
    """Of six digits, which are two tokens of the small tokenizer."""
    return str(chance.randint(100_000, 999_999))


def paper(chance: random.Random, drug: str, disease: str) -> dict[str, object]:
    """One about both, in two sentences."""
    outcome, first = chance.choice(OUTCOMES), drug[0].upper() + drug[1:]
    share, patients, months = chance.randint(11, 590) / 10, chance.randint(40, 990), chance.randint(3, 60)
    return {
        "paperId": pmid(chance), "title": f"{first} and {outcome} in {disease}: {chance.choice(STUDIES)}.",
        "authors": [{"name": chance.choice(SURNAMES)}], "year": str(chance.randint(1995, 2025)),
        "venue": chance.choice(JOURNALS),
        "abstract": f"We saw {patients} adults for {months} months. "
        f"{first} changed {outcome} by {share}% in {disease}.",
    }  # fmt: skip
