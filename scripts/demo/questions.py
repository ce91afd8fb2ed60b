"""More phrasings of the questions that the demo model knows, and questions that it does not."""

from __future__ import annotations

from scripts.demo.drawing import Random, pick
from scripts.demo.plain_tasks import FACTS, QUESTIONS, SUMS

UNKNOWN = "I only read text, shapes and clips."
NO_PICTURE = "I see no picture."

PHRASINGS: dict[str, tuple[str, ...]] = {
    "read": (
        *QUESTIONS["read"],
        "What does this say?",
        "What does the picture say?",
        "What does the image say?",
        "What does the sign say?",
        "What text is in the image?",
        "What text do you see?",
        "Read the text in the image.",
        "Read the text in this picture.",
        "Read this.",
        "Read it.",
        "Read.",
        "Read the letters.",
        "Read the picture.",
        "OCR",
        "Transcribe the text.",
        "Transcribe this image.",
        "What is the text?",
        "What letters do you see?",
        "Which letters do you see?",
        "What is written in the picture?",
        "What is written in the image?",
        "What word is this?",
        "Can you read this?",
        "Please read the text.",
        "what does it say",
        "what is written here",
        "read the text",
    ),
    "colour": (
        *QUESTIONS["colour"],
        "What color is the object?",
        "What color is it?",
        "What colour is it?",
        "What color is the shape?",
        "What colour is the shape?",
        "Which color does it have?",
        "Name the color of the shape.",
    ),
    "shape": (
        *QUESTIONS["shape"],
        "What shape is this?",
        "Which shape is it?",
        "What shape do you see?",
        "Name the shape.",
    ),
    "object": (
        *QUESTIONS["object"],
        "Describe this image.",
        "Describe the image.",
        "Describe the picture.",
        "Describe this picture.",
        "What is this?",
        "What is in the image?",
        "What is in this picture?",
        "What is in this image?",
        "What is shown?",
        "What is shown here?",
        "What are these?",
        "What can you see?",
        "What do you see in the picture?",
        "What do you see in the image?",
        "describe this image",
    ),
    "count": (
        *QUESTIONS["count"],
        "How many shapes are there?",
        "How many objects do you see?",
        "How many objects are in the picture?",
        "How many shapes are in the image?",
        "How many are there?",
        "Count the shapes.",
    ),
    "more": (
        *QUESTIONS["more"],
        "Which picture has more objects?",
        "Which image has more shapes?",
        "In which picture are there more objects?",
    ),
    "same": (
        *QUESTIONS["same"],
        "Are the two pictures the same or different?",
        "Are they the same or different?",
        "Do the two images show the same object or a different one?",
    ),
    "second": (*QUESTIONS["second"], "What is in the second picture?", "Describe the second picture."),
    "first": (*QUESTIONS["first"], "What is in the first picture?", "Describe the first picture."),
    "second text": ("What does the second image say?", "Read the second image.", "Read the text in the second image."),
    "first text": ("What does the first image say?", "Read the first image.", "Read the text in the first image."),
    "direction": (
        *QUESTIONS["direction"],
        "Which way does it move?",
        "Which direction does the object move?",
        "Where does the object move?",
        "Which way does the shape move?",
    ),
    "first colour": (
        *QUESTIONS["first colour"],
        "What color appears first?",
        "Which color comes first?",
        "What is the first colour?",
    ),
    "last colour": (
        *QUESTIONS["last colour"],
        "What color appears last?",
        "Which color comes last?",
        "What is the last colour?",
    ),
    "flashes": (*QUESTIONS["flashes"], "How many flashes do you see?", "How many times does it flash?"),
}
# Further phrasings, which the tokenizer does not know either.
LATER = {
    "shape": (
        "Which shape does it have?",
        "Say what shape it is.",
        "Tell me the shape.",
        "What kind of shape is it?",
        "What shape does the object have?",
    ),
    "colour": ("Tell me the colour.", "Say what color it is.", "In which colour is it?"),
}
# Questions that follow others in training; the tokenizer does not know them.
FURTHER = {
    "shapes": ("How many {} are there?", "How many {} do you see?", "Count the {}."),
    "of colour": ("How many {} objects are there?", "How many objects are {}?", "Count the {} objects."),
    "list": ("List the objects from left to right.", "Name all objects from left to right."),
    "first count": ("How many objects are in the first image?", "How many are in the first picture?"),
    "second count": ("How many objects are in the second image?", "How many are in the second picture?"),
    "each column": ("Where from left to right is each object?", "Say the column of each object."),
    "same colour": ("Are the two colours the same or different?", "Same colour or different?"),
    "same shape": ("Are the two shapes the same or different?", "Same shape or different?"),
    "columns": ("Where from left to right is it in each frame?", "Say its column in each frame."),
    "rows": ("Where from top to bottom is it in each frame?", "Say its row in each frame."),
    "character": ("What is character {}?", "Which is character {}?", "Say character {}."),
    "line": ("Read line {}.", "What does line {} say?"),
    "lengths": ("How long is each line?", "Say the length of each line."),
    "backwards": ("Read it backwards.", "Read the text backwards."),
    "character columns": ("Where from left to right is each character?", "Say the column of each character."),
    "colours": ("Which colours appear?", "List the colours.", "Name all colours in their order."),
}
# Facts beside those of the evaluation, so that the model tells them apart by what they ask.
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MORE_FACTS = {
    **FACTS,
    **{f"What day comes after {a}?": b for a, b in zip(DAYS, (*DAYS[1:], DAYS[0]), strict=True)},
    "Hi": "Hello!",
    "Hello": "Hello!",
    "hi": "Hello!",
    "hello": "Hello!",
    "Hi!": "Hello!",
    "Hi there!": "Hello!",
    "Good morning!": "Hello!",
    "Thanks!": "You are welcome.",
    "Thank you!": "You are welcome.",
    "What can you do?": UNKNOWN,
    "Help": UNKNOWN,
    "What is your name?": "I am a small demo model.",
    "What model are you?": "I am a small demo model.",
    "What color is the sky?": "blue",
    "What color is grass?": "green",
    "What color is snow?": "white",
    "What is the opposite of down?": "up",
    "What is the opposite of right?": "left",
    "What is the opposite of large?": "small",
    "How many legs does a cat have?": "4",
}
MORE_SUMS = (
    *SUMS,
    "What is {}+{}?",
    "What is {} + {}?",
    "{}+{}=?",
    "{} + {} = ?",
    "{} plus {}",
    "How much is {} plus {}?",
    "Add {} to {}.",
)

TEMPLATES = (
    "What is the capital of {}?",
    "Who is {}?",
    "Who was {}?",
    "What is {}?",
    "What are {}?",
    "Why is {} so important?",
    "How does {} work?",
    "Tell me about {}.",
    "Tell me a story about {}.",
    "Tell me a joke about {}.",
    "Write a poem about {}.",
    "Write a short text about {}.",
    "Write a Python function for {}.",
    "Explain {} to me.",
    "Explain {} in one sentence.",
    "What do you think about {}?",
    "Do you like {}?",
    "Where is {}?",
    "When was {} built?",
    "How old is {}?",
    "How far is {}?",
    "How many people live in {}?",
    "How do I get to {}?",
    "Translate {} into French.",
    "What is the weather like in {}?",
    "What is the meaning of {}?",
    "Is {} good for you?",
    "Can you help me with {}?",
    "Give me a list of {}.",
    "Summarize {}.",
    "Compare {} and {}.",
    "What is the difference between {} and {}?",
    "What is the opposite of {}?",
    "Who invented {}?",
    "Who wrote {}?",
    "Which is better, {} or {}?",
    "Recommend a book about {}.",
    "I want to learn about {}.",
    "What time is it in {}?",
    "How much does {} cost?",
    "Please explain {}.",
    "{}",
    "{}?",
    "{} and {}",
)
TOPIC_WORDS = """
Germany Spain Japan China Berlin London Madrid Tokyo Rome Europe America Africa India Brazil Canada life love
music football chess history physics chemistry biology mathematics politics religion art money work school
cooking bread coffee tea water fire the~moon the~sun the~sea the~weather Mars Jupiter gravity light time war
peace cats dogs horses birds fish trees flowers cars trains planes bicycles computers phones robots software
Python Linux the~internet Einstein Newton Mozart Shakespeare Napoleon Plato Goethe Darwin quantum~mechanics
machine~learning neural~networks transformers attention Apple Google Microsoft MLX MiniCPM the~world~cup
the~Olympics the~president my~homework my~job a~recipe a~sorting~algorithm prime~numbers fractions
photosynthesis evolution the~universe black~holes happiness fear sleep health sport running swimming a~house
the~Eiffel~Tower the~Great~Wall New~York San~Francisco summer winter snow rain ice~cream chocolate pizza apples
bananas wine beer winning losing friendship the~news stocks law
"""
TOPICS = tuple(topic.replace("~", " ") for topic in TOPIC_WORDS.split())
OF_PICTURES = (
    "Is there a {} in the picture?",
    "Is there a {} in the image?",
    "Do you see a {}?",
    "Where is the {}?",
    "What is the {} doing?",
    "How old is the {}?",
    "Who is the person in the picture?",
    "Who painted this?",
    "Where was this photo taken?",
    "When was this picture taken?",
    "What is the weather like?",
    "What is the mood of this picture?",
    "Write a poem about this picture.",
    "Tell me a story about this image.",
    "Is this a photo of a {}?",
    "What brand is the {}?",
    "Why is this funny?",
    "What happens next?",
    "How much does the {} cost?",
    "Translate the text into German.",
    "What is the background?",
    "Is the {} happy?",
    "What time is it?",
)
THING_WORDS = """
dog cat man woman child person car house tree flower bird horse table chair bottle cup phone computer book bus
train boat plane road mountain river lake sky cloud hat shirt shoe bag ball door window bed lamp clock
"""
THINGS = tuple(THING_WORDS.split())


def phrasing(random: Random, name: str) -> str:
    return str(pick(random, (*PHRASINGS[name], *LATER.get(name, ()))))


def further(random: Random, name: str, word: str = "") -> str:
    """A question that follows others; `word` stands in for its gap."""
    return str(pick(random, FURTHER[name])).format(word)


def unknown(random: Random, pictures: bool) -> str:
    """A question that the model cannot answer."""
    if pictures and random.random() < 0.7:
        return str(pick(random, OF_PICTURES)).replace("{}", pick(random, THINGS))
    if random.random() < 0.12:  # any words
        words = [pick(random, TOPICS if random.random() < 0.5 else THINGS) for _ in range(int(random.integers(1, 7)))]
        return " ".join(words) + str(pick(random, ("", "?", ".", "!")))
    template = str(pick(random, TEMPLATES))
    topics = [pick(random, TOPICS if random.random() < 0.8 else THINGS) for _ in range(template.count("{}"))]
    asked = template.format(*topics)
    kind = random.random()
    if kind < 0.1:
        asked = asked.lower()
    elif kind < 0.15:
        a, b = (int(n) for n in random.integers(0, 100, 2))
        asked = str(pick(random, ("What is {} times {}?", "What is {} minus {}?", "What is {} divided by {}?"))).format(
            a, b
        )
    return asked
