"""PDFs of a few words, each at its place."""

import io
from collections.abc import Mapping, Sequence

Word = tuple[float, float, str]
"""Points from the left, points from the bottom, and what is written there."""


def pdf_of(words: Sequence[Word], turns: Mapping[Word, str] | None = None, pages: int = 1) -> bytes:
    """A PDF whose pages all hold `words`, written in their order, in Helvetica of 12 points, some turned by a matrix."""
    turns = turns or {}
    each = ((turns.get(word, "1 0 0 1"), *word) for word in words)
    text = "\n".join(f"BT /F1 12 Tf {turn} {x:g} {y:g} Tm ({shown}) Tj ET" for turn, x, y, shown in each)
    parts = [
        "<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{'3 0 R ' * pages}] /Count {pages} >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    file, places = io.BytesIO(), []
    file.write(b"%PDF-1.4\n")
    for number, part in enumerate(parts, start=1):
        places.append(file.tell())
        file.write(f"{number} 0 obj\n{part}\nendobj\n".encode())
    start = file.tell()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    file.write(
        f"xref\n0 6\n0000000000 65535 f \n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()
    )
    return file.getvalue()
