"""Questions about made-up drugs, and the papers that answer them: questions.py FOLDER QUESTIONS HELD_OUT

Writes questions.jsonl, held_out.jsonl (about drugs that are in no other question) and papers.jsonl.
"""

import json
import random
import sys
from pathlib import Path

from made_up import DISEASES, drug, paper

FORMS = ["Is {0} effective in {1}?", "What is known about {0} in {1}?", "What is the effect of {0} on {1}?"]
WITHOUT_PAPER = 0.08

folder, many, held_out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if many + held_out > 8_000:
    sys.exit("LOOP_QUESTIONS and LOOP_HELD_OUT: 8,000 together at most, as there are 10,000 numbers for papers")
chance = random.Random(11)
drugs = list(dict.fromkeys(drug(chance) for _ in range(2 * (many + held_out))))[: many + held_out]
papers: dict[str, dict[str, object]] = {}
asked = []
for one in drugs:
    disease = chance.choice(DISEASES)
    question = chance.choice(FORMS).format(one, disease)
    asked.append({"question": question, "topic": disease, "question_type": "efficacy", "expected_search_terms": [one]})
    if chance.random() >= WITHOUT_PAPER:
        while (found := paper(chance, one, disease))["paperId"] in papers:
            pass
        papers[str(found["paperId"])] = found
for file, rows in (("questions", asked[:many]), ("held_out", asked[many:]), ("papers", [*papers.values()])):
    (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
