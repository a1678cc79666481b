"""The English voices of espeak-ng, and which of them training, validation and tests hear by default.

espeak-ng makes speech in two ways: by its own formant synthesiser, and by a port of Klatt's. All
speakers that use Klatt's are kept for one test: they show how far learning carries to a
synthesiser never heard. Speakers that differ only in name or pitch stay on the same side. Those whose
voices have breath (Alicia, f2, whisper and others) are left out: the library mixes into them what it
finds in memory, so the same sentence is not the same audio twice. Women are about a fifth of the speakers, in
training and in the tests.
"""

TRAIN_ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029")
OTHER_LANGUAGES: dict[str, tuple[str, ...]] = {
    "zh": ("cmn",), "es": ("es", "es-419"), "fr": ("fr", "fr-ch"), "de": ("de",), "it": ("it",), "pt": ("pt", "pt-br"),
}  # fmt: skip
TEST_ONLY_ACCENTS = ("en-gb-x-gbclan", "en-gb-x-gbcwmd")

# fmt: off
TRAIN_SPEAKERS = (
    "Alex", "Andy", "Annie", "AnxiousAndy", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo",
    "Lee", "Mario", "Mike", "RicishayMax3", "Storm", "Tweaky", "anika", "anikaRobot", "antonio", "aunty",
    "belinda", "boris", "croak", "ed", "f1", "grandpa", "gustave", "ian", "iven", "iven2", "iven3",
    "john", "kaukovalta", "linda", "m1", "m2", "m3", "m4", "m7", "m8", "marcelo", "michel", "miguel", "norbert",
    "pedro", "rob", "robosoft4", "robosoft5", "shelby", "steph",
    "steph2", "steph3", "travis", "zac",
)
VALIDATION_SPEAKERS = ("Marco", "m6", "robosoft7")
TEST_SPEAKERS = (
    "Andrea", "Jacky", "Michael", "Nguyen", "f4", "grandma", "m5", "max", "pablo", "paul", "quincy", "robert",
)
KLATT_SPEAKERS = (
    "adam", "benjamin", "david", "edward", "edward2", "klatt", "klatt2", "klatt3", "klatt4", "klatt5",
    "klatt6", "mike2",
)
# fmt: on
