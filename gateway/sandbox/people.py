"""Plausible people made from a seed: the same seed and locale give the same person, today and tomorrow."""

from __future__ import annotations

import random
from typing import TypedDict

SEED_MAX = (1 << 63) - 1

NAMES = {
    "en": (
        ("Ada", "Grace", "Oliver", "Maya", "Edward", "Nora", "Samuel", "Ruth"),
        ("Bennett", "Clarke", "Hughes", "Foster", "Murray", "Shaw", "Whitfield", "Okafor"),
        ("Leeds", "Portland", "Cork", "Bristol", "Toronto", "Wellington"),
    ),
    "de": (
        ("Anneliese", "Jonas", "Mareike", "Emil", "Frieda", "Lukas", "Sabine", "Cem"),
        ("Köhler", "Brandt", "Yıldız", "Schäfer", "Vogel", "Lindner", "Krüger", "Hartmann"),
        ("Leipzig", "Freiburg", "Hamburg", "Graz", "Basel", "Münster"),
    ),
    "fr": (
        ("Camille", "Étienne", "Inès", "Julien", "Margaux", "Théo", "Salomé", "Karim"),
        ("Moreau", "Lefèvre", "Garnier", "Benali", "Rousseau", "Chevalier", "Perrin", "Dubois"),
        ("Lyon", "Nantes", "Lille", "Genève", "Liège", "Montréal"),
    ),
    "es": (
        ("Lucía", "Mateo", "Inés", "Joaquín", "Valeria", "Andrés", "Noa", "Ramón"),
        ("Ibáñez", "Castro", "Molina", "Quispe", "Herrera", "Navarro", "Peña", "Rivas"),
        ("Valencia", "Sevilla", "Bogotá", "Córdoba", "Lima", "Montevideo"),
    ),
}
"""First names, family names and cities by locale. What is told about a person is in English everywhere."""

OCCUPATIONS = (
    "nurse", "carpenter", "bus driver", "physics teacher", "baker", "data engineer", "beekeeper", "translator",
    "structural engineer", "librarian", "florist", "tax adviser", "sound technician", "vet", "tram conductor",
)  # fmt: skip
INTERESTS = (
    "open-water swimming", "chess", "birdwatching", "sourdough", "film photography", "bouldering", "choir singing",
    "restoring radios", "allotment gardening", "trail running", "crosswords", "street food", "astronomy", "pottery",
)  # fmt: skip
TRAITS = ("patient", "dry-humoured", "curious", "stubborn", "careful with money", "easily delighted", "plain-spoken")
GOALS = (
    "to work four days a week",
    "to learn the accordion before turning sixty",
    "to walk home from work more often",
    "to open a small repair shop with a friend",
    "to read every book already on the shelf",
)
QUOTES = (
    "If it has instructions, I read them. Afterwards.",
    "I would rather pay twice for something that lasts.",
    "Show me the price first, then the picture.",
    "I trust a product once somebody has apologised for it.",
    "Ask me again when I have had my tea.",
)


class Persona(TypedDict):
    """One made-up person, in the order in which a stream tells the fields."""

    id: str
    name: str
    age: int
    city: str
    locale: str
    occupation: str
    interests: list[str]
    bio: str
    quote: str


def make_persona(seed: int, locale: str) -> Persona:
    """The person of this seed (0..SEED_MAX) and locale (a key of NAMES)."""
    # A text as seed goes through SHA-512: neighbouring numbers give unlike people, in every Python version alike.
    dice = random.Random(f"{locale}:{seed}")
    first_names, family_names, cities = NAMES[locale]
    first = dice.choice(first_names)
    age = dice.randint(18, 84)
    city = dice.choice(cities)
    occupation = dice.choice(OCCUPATIONS)
    interests = dice.sample(INTERESTS, 3)
    article = "an" if occupation[0] in "aeiou" else "a"
    return {
        "id": f"persona_{locale}_{seed:x}",
        "name": f"{first} {dice.choice(family_names)}",
        "age": age,
        "city": city,
        "locale": locale,
        "occupation": occupation,
        "interests": interests,
        "bio": (
            f"{first}, {age}, works as {article} {occupation} in {city}. {dice.choice(TRAITS).capitalize()}, fond of "
            f"{interests[0]} and {interests[1]}, and wants {dice.choice(GOALS)}."
        ),
        "quote": dice.choice(QUOTES),
    }


def read_persona_id(persona_id: str) -> tuple[int, str] | None:
    """Seed and locale of the person with this id; None when nobody can have it."""
    prefix, _, rest = persona_id.partition("_")
    locale, _, digits = rest.partition("_")
    if prefix != "persona" or locale not in NAMES or not 0 < len(digits) <= 16:
        return None
    if not all(digit in "0123456789abcdef" for digit in digits):
        return None
    seed = int(digits, 16)
    # One spelling per person: without leading zeros, as made.
    return (seed, locale) if seed <= SEED_MAX and f"{seed:x}" == digits else None
