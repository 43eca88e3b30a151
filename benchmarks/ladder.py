"""Make one table of the results that benchmarks/bench_alexnet.py --json wrote into a folder:

python benchmarks/ladder.py DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main(folder: str) -> int:
    written = [
        json.loads(path.read_text())
        for path in sorted(Path(folder).glob("*.json"))
        if path.stat().st_size
    ]
    results = [
        result for result in written if "floor" in result
    ]  # bench_kernels.py writes no floor of a step
    if not results:
        sys.exit(f"{folder} holds no result of bench_alexnet.py --json")
    print("\n".join(results[0]["machine"]))
    print(
        f"{'network':12}{'batch':>6} "
        f" {'':14}{'step ms':>9}{'ours/it':>9}{'/floor':>8}"
        f"{'infer ms':>10}{'ours/it':>9}{'peak GB':>9}"
    )
    for result in results:
        rows = {
            n: (np.median(r["step"]), np.median(r["infer"]), r["peak"])
            for n, r in result["rows"].items()
        }
        ours = rows["minigrad"]
        for name, (step, infer, peak) in rows.items():
            print(
                f"{result['settings']['network']:12}{result['settings']['batch']:>6} "
                f" {name:14}{1e3 * step:9.2f}{ours[0] / step:9.2f}"
                f"{step / result['floor']:8.2f}{1e3 * infer:10.2f}{ours[1] / infer:9.2f}{peak:9.2f}"
            )
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
