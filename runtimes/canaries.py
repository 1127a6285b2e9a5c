"""Sixteen texts whose vectors tell one engine from another; a fingerprint carries them.

They never change: a vector of another text says nothing about these. In ten languages, from one
token to about three hundred, so that an engine for short texts, or one that knows only some
languages, still has vectors for some of them. The first four are single digits and signs, whose
tokens every bundle of a smaller vocabulary keeps.
"""

from __future__ import annotations

import hashlib
import json

LEAST = 4  # of the texts, whose vectors both sides must have

CANARIES = (
    "7",
    "1 2 3 4 5 6 7 8 9 0",
    "( 4 + 5 ) * 6 = ?",
    "9 : 0 , 1 . 8 ! 2 - 3",
    "Where is the station?",
    "Der Zug nach Köln fährt heute von Gleis 7.",
    "La réunion est reportée à jeudi, 14 h 30.",
    "東京は夜の七時です。",
    "Завтра обещают дождь и сильный ветер.",
    "كم تبعد المدينة عن البحر؟",
    "El pan de centeno se conserva mejor envuelto en un paño seco que en una bolsa de plástico.",
    "def area(radius: float) -> float:\n    return 3.14159 * radius**2\n",
    "Invoice 2031-0457: 12 × filter cartridge A4 at 8.95, 3 × pump seal at 21.40; total 171.60, "
    "payable within 30 days.",
    "Ο ελαιώνας βρίσκεται σε πλαγιά με νότιο προσανατολισμό. Τον Νοέμβριο μαζεύουμε τις ελιές με "
    "το χέρι, και την ίδια μέρα τις πηγαίνουμε στο ελαιοτριβείο του χωριού.",
    "A heat pump moves warmth instead of making it. A liquid with a low boiling point evaporates "
    "outside, even in cold air, and takes up heat while it does. A compressor then squeezes the "
    "vapour, which raises its temperature, and a second heat exchanger gives that warmth to the "
    "water of the heating circuit. The vapour becomes liquid again, passes a narrow valve and "
    "cools down, and the round begins anew. For each kilowatt-hour of electricity, three to four "
    "of heat reach the house; the colder it is outside and the hotter the radiators have to be, "
    "the fewer.",
    "Die Bibliothek zieht um. Vom 3. bis zum 21. März bleibt das Haus am Markt geschlossen, weil "
    "rund 80.000 Bände in den Neubau an der Hafenstraße gebracht werden. Ausgeliehene Bücher "
    "müssen in dieser Zeit nicht zurückgegeben werden: Alle Fristen verlängern sich von selbst "
    "bis Ende April. Wer etwas vorbestellt hat, bekommt eine Nachricht, sobald es abgeholt werden "
    "kann. The reading room for newspapers stays open in the town hall, first floor, from ten "
    "to six. Les lecteurs qui ne peuvent pas se déplacer reçoivent leurs livres à domicile; il "
    "suffit de téléphoner avant midi. Im Neubau gibt es erstmals Arbeitsplätze, die man für einen "
    "ganzen Tag buchen kann, außerdem einen Raum, in dem gesprochen werden darf, und eine "
    "Werkstatt, in der Kinder unter Anleitung Bücher binden. Der alte Lesesaal mit seinen Galerien "
    "wird nicht abgerissen; die Stadt sucht noch nach jemandem, der ihn nutzen möchte.",
)


def texts_sha256() -> str:
    """Identifies the texts."""
    return hashlib.sha256(json.dumps(CANARIES).encode()).hexdigest()
