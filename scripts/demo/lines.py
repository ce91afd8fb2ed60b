"""Lines of text to read, and further questions about them."""

from __future__ import annotations

from scripts.demo.cases import Turns
from scripts.demo.drawing import CHARACTERS, Picture, Random, pick
from scripts.demo.labels import columns_of
from scripts.demo.questions import further

WORD_LIST = """
HELLO WORLD OPEN CLOSED STOP EXIT SALE HI CAT DOG TEST DEMO IMAGE TEXT RED BLUE MLX APPLE MINI MODEL YES NO OK
GO PLEASE THANKS FREE NEW PARIS LONDON COFFEE TEA BUS TAXI ROOM FLOOR GATE HOUSE STREET PRICE TOTAL SUM DATE
TIME JUNE JULY MONDAY SUNDAY ZERO ONE TWO PAGE QUIZ VISION PORT PYTHON CODE INVOICE NUMBER
"""
WORDS = tuple(WORD_LIST.split())
# Characters that are taken for each other are drawn more often, and so is a character twice.
ALIKE, OFTEN, TWICE = "O0O0O0QDCGI1I1JLT7EFVWVWY5S6B8Z2", 0.35, 0.04
MOST_PLACES = 16  # characters of a picture whose places are asked for


def random_line(random: Random, longest: int) -> str:
    line = ""
    for _ in range(int(random.integers(1, longest + 1))):
        kind = random.random()
        line += line[-1] if line and kind < TWICE else pick(random, ALIKE if kind < TWICE + OFTEN else CHARACTERS)
    return line


def lines_to_read(random: Random, longest: int, most: int = 2) -> list[str]:
    """One line or some, `most` at most, mostly of random characters, some with a space, some words.

    The more characters a picture has, the more it teaches.
    """
    lines = []
    count = 1 if random.random() < 0.5 else 2
    for _ in range(count if most <= 2 or random.random() < 0.85 else int(random.integers(3, most + 1))):
        kind = random.random()
        if kind < 0.8 or longest < 4:
            lines.append(random_line(random, longest))
        elif kind < 0.9:
            lines.append(pick(random, WORDS)[:8])
        else:
            half = max(longest // 2, 1)
            lines.append(f"{random_line(random, half)} {random_line(random, half)}")
    return lines


def more_of_lines(random: Random, lines: list[str], picture: Picture) -> Turns:
    """Further questions about lines that are read: single characters, one line, backwards, places and lengths.

    They ask for an order that the answer alone seldom needs: a reader that has lost its place repeats or skips what is
    near.
    """
    turns = []
    for _ in range(2):
        row = int(random.integers(len(lines)))
        place = int(random.integers(len(lines[row])))
        if lines[row][place] != " ":
            which = f"{place + 1} of line {row + 1}" if len(lines) > 1 else str(place + 1)
            turns.append((further(random, "character", which), lines[row][place]))
    if len(lines) > 1 and random.random() < 0.7:
        row = int(random.integers(len(lines)))
        turns.append((further(random, "line", str(row + 1)), lines[row]))
    if random.random() < 0.2:
        turns.append((further(random, "lengths"), " ".join(str(len(line)) for line in lines)))
    if sum(map(len, lines)) <= MOST_PLACES:
        if random.random() < 0.5:
            turns.append((further(random, "backwards"), "\n".join(lines)[::-1]))
        if random.random() < 0.5:
            turns.append((further(random, "character columns"), columns_of(picture.labels)))
    return tuple(turns[int(i)] for i in random.permutation(len(turns)))
