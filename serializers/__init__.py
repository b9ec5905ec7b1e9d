"""State to text and back: the grammar, and the record. Nothing is judged here."""
