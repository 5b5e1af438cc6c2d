"""Opens each file named and reads its first byte; prints how many seconds that took, a line each."""

import os
import sys
import time

for path in sys.argv[1:]:
    start = time.monotonic()
    file = os.open(path, os.O_RDONLY)
    if len(os.pread(file, 1, 0)) != 1:
        sys.exit(f"{path} is empty")
    print(time.monotonic() - start)
    os.close(file)
