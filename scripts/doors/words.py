"""Texts to train on, made up here, with what the doors are known to stumble over."""

import random

SYLLABLES = "ka ri mo te lu san vel dor ith bra no eel wen fi ras ou tam ber lys qua".split()


def words(count, seed):
    """Sentences of made-up words with every mark of the Shakespeare vocabulary; a quarter of the marks are `;`, which is the
    character with id 11 here as there."""
    rng = random.Random(seed)
    known = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(120)]
    out = []
    for i in range(count):
        word = rng.choice(known)
        word = word.capitalize() if i % 11 == 0 else word
        mark = rng.choices(["", ";", ",", ".", "!", ":", "'", "-", "?"], weights=[60, 15, 8, 8, 2, 2, 2, 2, 1])[0]
        out.append(word + mark + ("\n" if rng.random() < 0.08 else " "))
    return "".join(out) + " $3&!\n"
