"""The technical report: numbers out of results/, put into the text of report/ by Typst.

`rows.py` takes rows and refuses what is no result. `chat.py` and `chat_engine.py` (study one), `gap.py`, `mixed.py`,
`hybrid.py`, `engine.py`, `ablations.py` and `hashes.py` (study two), `routing.py` (study three), `models.py`,
`tiers.py`, `hints.py`, `mixes.py` (configurations), `units.py`, `parity.py` and `cost.py` (the block pool) make the
numbers of the chapters, all of them texts as `texts.py` writes them; `build.py` hands them to Typst as one object.
Chapters hold no digit of their own (tests/report says so), and where they claim something in words, the claim is
computed here and checked while the report is typeset.
"""
