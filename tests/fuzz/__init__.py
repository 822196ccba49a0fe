"""Damaged and hostile inputs by the thousand: one sentence each, never a crash, hang or blow-up.

``python -m tests.fuzz slides --count 5000 --seed 7`` runs a campaign. A kind of input is one small
module in ``tests/fuzz/targets`` with three names:

``seeds(folder)``
    Writes small good inputs into a folder and returns a `Seed` for each.
``drive(path)``
    Does what a user of such an input does, as far as the program goes.
``ALLOWED``
    The exceptions that are a sentence to the user; any other is a finding.
"""
