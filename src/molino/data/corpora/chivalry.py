"""A small probabilistic grammar of Spanish, in the manner of the tales that turned Don Quijote's head.

What is notable:

- A sentence names its hero, and at the end, some 60 to 100 characters later, names the same hero again, with a
  participle that agrees in gender and number; a journey ends where it began. Between the two stand a noun phrase and a
  relative clause, so that a model with a short memory pays at every ending for what one with a long memory gets free.
- Agreement needs no machinery: a rule is a Python function of gender, number or hero, and each of its values is a rule
  of its own.
- At every choice the alternatives are prefix-free: no text of one begins a text of another. So are all sequences of
  prefix-free parts, hence no two derivations give one text, and a sentence ends where it ends without a separator.
  Words are chosen with this in mind: every list is prefix-free as it stands, and optional parts are choices between
  different continuations, never between something and nothing.
"""

from functools import cache

from molino.data.corpora.rules import Choice, Node

MASCULINE, FEMININE = 0, 1
SINGULAR, PLURAL = 0, 1

HEROES = {
    "don Galaor": MASCULINE,
    "Amadís": MASCULINE,
    "Oriana": FEMININE,
    "Tirante": MASCULINE,
    "Carmesina": FEMININE,
    "don Belianís": MASCULINE,
    "Urganda": FEMININE,
    "Esplandián": MASCULINE,
    "Bradamante": FEMININE,
    "Florisel": MASCULINE,
    "Melisendra": FEMININE,
    "Lisuarte": MASCULINE,
}
PLACES = ("Gaula", "Trapisonda", "Bretaña", "la Ínsula Firme", "Niquea", "Sansueña", "Constantinopla", "Hircania")
OPENINGS = (
    "Cuenta la historia que ",
    "Dicen los antiguos que ",
    "Un día de mayo ",
    "En aquella sazón ",
    "Al romper el alba ",
    "Pasada la medianoche ",
)
# Masculine then feminine; the plural adds -s.
STATES = (
    ("herido de amor", "herida de amor"),
    ("armado de todas armas", "armada de todas armas"),
    ("cansado del camino", "cansada del camino"),
    ("enojado", "enojada"),
    ("perdido en la montaña", "perdida en la montaña"),
)
REWARDS = (
    ("alabado", "alabada"),
    ("coronado", "coronada"),
    ("honrado", "honrada"),
    ("llorado", "llorada"),
    ("temido", "temida"),
)
# Singular then plural.
DEEDS = (
    ("venció ", "vencieron "),
    ("desafió ", "desafiaron "),
    ("halló ", "hallaron "),
    ("libró ", "libraron "),
    ("siguió ", "siguieron "),
)
NOUNS = {
    MASCULINE: (
        ("gigante", "gigantes"),
        ("caballero", "caballeros"),
        ("encantador", "encantadores"),
        ("dragón", "dragones"),
        ("ermitaño", "ermitaños"),
        ("león", "leones"),
    ),
    FEMININE: (
        ("doncella", "doncellas"),
        ("sierpe", "sierpes"),
        ("dueña", "dueñas"),
        ("hechicera", "hechiceras"),
        ("princesa", "princesas"),
    ),
}
ARTICLES = {
    (MASCULINE, SINGULAR): "al ",
    (MASCULINE, PLURAL): "a los ",
    (FEMININE, SINGULAR): "a la ",
    (FEMININE, PLURAL): "a las ",
}
ADJECTIVES = (("soberbio", "soberbia"), ("encantado", "encantada"), ("hermoso", "hermosa"), ("fiero", "fiera"))
RELATIVES = (
    (("guardaba ", "guardaban "), ("el puente", "la torre", "el tesoro", "las llaves del castillo")),
    (("llevaba ", "llevaban "), ("una espada", "un yelmo de oro", "cien lanzas", "el escudo del rey")),
    (("moraba en ", "moraban en "), ("el bosque", "la cueva", "una peña")),
)


def tale() -> Node:
    """Return the grammar: its texts are sentences, each with its line end."""
    return (Choice.zipfian(OPENINGS), Choice.zipfian([sentence(hero) for hero in HEROES]), ".\n")


def sentence(hero: str) -> Node:
    gender = HEROES[hero]
    companions = [companion for companion in HEROES if companion != hero]
    alone = (", ", state(gender, SINGULAR), ", ", adventure(hero, gender, SINGULAR))
    leaving = (" salió de ", Choice.zipfian([journey(hero, place) for place in PLACES]))
    together = (" y ", Choice.zipfian([company(hero, companion) for companion in companions]))
    return (hero, Choice((0.45, 0.3, 0.25), (alone, leaving, together)))


def journey(hero: str, place: str) -> Node:
    gender = HEROES[hero]
    return (place, " y ", deed(SINGULAR), ", y ", reward(gender, SINGULAR), " tornó ", hero, " a ", place)


def company(hero: str, companion: str) -> Node:
    gender = min(HEROES[hero], HEROES[companion])  # Feminine only if both are.
    return (companion, ", ", state(gender, PLURAL), ", ", adventure(f"{hero} y {companion}", gender, PLURAL))


def adventure(heroes: str, gender: int, number: int) -> Node:
    became = ("fue ", "fueron ")[number]
    return (deed(number), ", y por ello ", became, reward(gender, number), " ", heroes)


@cache
def state(gender: int, number: int) -> Node:
    return Choice.zipfian([inflect(forms[gender], number) for forms in STATES])


@cache
def reward(gender: int, number: int) -> Node:
    return Choice.zipfian([inflect(forms[gender], number) for forms in REWARDS])


@cache
def deed(number: int) -> Node:
    return (Choice.zipfian([forms[number] for forms in DEEDS]), foe())


@cache
def foe() -> Node:
    kinds = [
        (ARTICLES[gender, number], Choice.zipfian([forms[number] for forms in NOUNS[gender]]), quality(gender, number))
        for gender, number in ARTICLES
    ]
    return Choice((0.4, 0.2, 0.25, 0.15), tuple(kinds))


@cache
def quality(gender: int, number: int) -> Node:
    adjective = Choice.zipfian([inflect(forms[gender], number) for forms in ADJECTIVES])
    return Choice((0.4, 0.6), ((" ", adjective), (" que ", relative(number))))


@cache
def relative(number: int) -> Node:
    return Choice.zipfian([(verb[number], Choice.zipfian(objects)) for verb, objects in RELATIVES])


def inflect(word: str, number: int) -> str:
    """Put the first word of a phrase into the plural."""
    head, *rest = word.split(" ", 1)
    return " ".join([head + "s" if number == PLURAL else head, *rest])
