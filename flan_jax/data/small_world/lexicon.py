"""The words of the small world. They are the same for every seed; who has, does and likes what is not."""

WOMEN = ("Ann", "Eve", "Lily", "Mary", "Rose", "Sara", "Nora", "Ella", "Lucy", "Jane", "Emma", "Kate")
MEN = ("Tom", "Bob", "Sam", "Max", "Leo", "Ben", "Dan", "Jack", "Paul", "Nick", "Hugo", "Otto")
PEOPLE = (*WOMEN, *MEN)
PLACES = ("garden", "kitchen", "barn", "school", "shop", "park", "station", "church", "library", "tower")
TOWNS = ("Avon", "Brill", "Corby", "Delft", "Elgin", "Fowey", "Garth", "Hove")
JOBS = ("baker", "farmer", "teacher", "doctor", "driver", "painter", "singer", "tailor")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
THINGS = ("ball", "cup", "hat", "book", "key", "lamp", "box", "drum", "kite", "ring")
FOODS = ("apples", "pears", "plums", "nuts", "eggs", "cakes", "pies", "figs")
# An animal, several of them, and what it does with its voice.
ANIMALS = {
    "dog": ("dogs", "barked"),
    "cat": ("cats", "meowed"),
    "cow": ("cows", "mooed"),
    "duck": ("ducks", "quacked"),
    "horse": ("horses", "neighed"),
    "pig": ("pigs", "grunted"),
    "bee": ("bees", "buzzed"),
    "owl": ("owls", "hooted"),
}
VERBS = ("sees", "likes", "finds", "wants", "follows", "hears")
# What a review is about, and the parts of it that it speaks of.
FILMS = {"film": ("story", "music", "hero"), "play": ("story", "stage", "hero"), "song": ("music", "voice", "text")}
MEALS = {
    "soup": ("taste", "smell", "price"),
    "cake": ("taste", "look", "price"),
    "dinner": ("taste", "service", "price"),
}
PRAISE = ("good", "great", "lovely", "fine", "clever", "sweet", "perfect", "pleasant")
BLAME = ("bad", "awful", "dull", "poor", "silly", "sour", "terrible", "boring")
LOVED, HATED = ("loved", "enjoyed"), ("hated", "disliked")
NUMBERS = range(2, 10)  # in a question, of things in the plural; a sum of two steps may come to three times as much

_VOWELS = "aeiou"
_CONSONANTS = "bdfgklmnprtvz"
SYLLABLES = tuple(consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS)
# Words that the invented language has one of its own for; names stay as they are.
TRANSLATED = (*COLOURS, *ANIMALS, *THINGS, *VERBS)


def pronoun(person: str) -> str:
    """`she` or `he`."""
    return "she" if person in WOMEN else "he"
