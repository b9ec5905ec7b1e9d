"""Drugs that do not exist, and papers about them: what is asked and answered here can be known by reading alone."""

import random

COMPANIES = ["AZ", "BMS", "GSK", "LY", "MK", "PF", "RO", "SAR"]
DISEASES = (
    "anemia arthritis asthma cirrhosis colitis dementia eczema epilepsy glaucoma gout hepatitis hypertension lupus "
    "malaria migraine obesity osteoporosis pneumonia psoriasis schizophrenia sepsis thrombosis tuberculosis urticaria"
).split()
OUTCOMES = ["survival", "relapse", "bleeding", "mortality", "remission", "pain"]
STUDIES = ["a cohort study", "a randomized trial", "a pooled analysis"]
SURNAMES = ["Vadou", "Marlin", "Brosk", "Tenari", "Quill", "Ostrel"]
JOURNALS = ["Lancet", "BMJ", "Gut", "Blood", "Thorax"]


def six_digits(chance: random.Random) -> str:
    """Two tokens of the small tokenizer, out of a hundred: one of few is copied well after few minutes."""
    return f"{chance.randint(100, 199)}{chance.randint(100, 199)}"


def drug(chance: random.Random) -> str:
    """By its number, as those are called that have no name yet."""
    return chance.choice(COMPANIES) + six_digits(chance)


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
