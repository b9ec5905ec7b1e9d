"""Drugs that do not exist, and papers about them: what is asked and answered here can be known by reading alone."""

import random

LETTERS = ["JQ", "KX", "QW", "VX", "WJ", "XK", "ZQ", "ZV"]
"""Of companies that do not exist."""
NUMBERS = [str(one) for one in range(100, 200)]
"""Each is one token. A small model soon copies well what is one of only a hundred."""
DISEASES = (
    "anemia arthritis asthma cirrhosis colitis dementia eczema epilepsy glaucoma gout hepatitis hypertension lupus "
    "malaria migraine obesity osteoporosis pneumonia psoriasis schizophrenia sepsis thrombosis tuberculosis urticaria"
).split()
OUTCOMES = ["survival", "relapse", "bleeding", "mortality", "remission", "pain"]
STUDIES = ["a cohort study", "a randomized trial", "a pooled analysis"]
SURNAMES = ["Vadou", "Marlin", "Brosk", "Tenari", "Quill", "Ostrel"]
JOURNALS = ["Lancet", "BMJ", "Gut", "Blood", "Thorax"]


def six_digits(chance: random.Random) -> str:
    """Two of the numbers."""
    return chance.choice(NUMBERS) + chance.choice(NUMBERS)


def drug(chance: random.Random) -> str:
    """A company's letters and a number, as a drug is called before it has a name."""
    return chance.choice(LETTERS) + six_digits(chance)


def paper(chance: random.Random, drug: str, disease: str) -> dict[str, object]:
    """One about both, in two sentences."""
    outcome = chance.choice(OUTCOMES)
    share, patients, months = chance.randint(110, 590) / 10, chance.randint(40, 990), chance.randint(3, 60)
    return {
        "paperId": six_digits(chance), "title": f"{drug} and {outcome} in {disease}: {chance.choice(STUDIES)}.",
        "authors": [{"name": chance.choice(SURNAMES)}], "year": str(chance.randint(1995, 2025)),
        "venue": chance.choice(JOURNALS),
        "abstract": f"We saw {patients} adults for {months} months. {drug} changed {outcome} by {share}% in {disease}.",
    }  # fmt: skip
