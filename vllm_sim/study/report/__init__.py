"""The technical report: numbers out of results/, put into the text of report/ by Typst.

`rows.py` takes rows and refuses what is no result; `chat.py`, `mixed.py`, `hybrid.py`, `ablations.py` and `proof.py`
make the numbers of the chapters, all of them texts with their units; `build.py` hands them to Typst as one object. The
chapters hold no digit of their own (tests/study/report says so), and where they claim something in words, the claim is
computed here and checked while the report is typeset.
"""
