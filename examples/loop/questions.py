"""Questions about made-up drugs, and the papers that answer them: questions.py FOLDER QUESTIONS HELD_OUT

Writes questions.jsonl, held_out.jsonl (about drugs and diseases that are in no other question) and papers.jsonl.
"""

import json
import random
import sys
from pathlib import Path

from made_up import DISEASES, DRUGS, name, paper

FORMS = ["Does {drug} help in {disease}?", "Is {drug} of use in {disease}?", "What does {drug} do in {disease}?"]
WITHOUT_PAPER = 0.08

folder, many, held_out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(11)
taken: set[str] = set()


def new(endings: list[str]) -> str:
    """A name that nothing else has."""
    while (found := name(chance, endings)) in taken:
        pass
    taken.add(found)
    return found


papers: dict[str, dict[str, object]] = {}
asked = []
for _ in range(many + held_out):
    drug, disease = new(DRUGS), new(DISEASES)
    question = chance.choice(FORMS).format(drug=drug, disease=disease)
    asked.append({"question": question, "topic": disease, "question_type": "efficacy", "expected_search_terms": [drug]})
    if chance.random() >= WITHOUT_PAPER:
        found = paper(chance, drug, disease)
        papers.setdefault(str(found["paperId"]), found)
for file, rows in (("questions", asked[:many]), ("held_out", asked[many:]), ("papers", [*papers.values()])):
    (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
