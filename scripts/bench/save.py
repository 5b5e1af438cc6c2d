"""Saves files as careful programs do: writes each under another name, closes it, renames it. Arguments: from, to."""

import os
import sys

source, target = sys.argv[1:]
for name in sorted(os.listdir(source)):
    with open(os.path.join(source, name), "rb") as file:
        content = file.read()
    aside = os.path.join(target, f".{name}.tmp")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        if os.write(file, content) != len(content):
            sys.exit(f"{aside} was written in part")
    finally:
        os.close(file)
    os.rename(aside, os.path.join(target, name))
