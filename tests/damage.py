"""Damage to files, as a bad disk or a cut-off copy does it."""

import os


def cut_off(path):
    os.truncate(path, path.stat().st_size - 1)


def flip_the_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
