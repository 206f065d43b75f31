# What a GPU's own library does: torch.nn.functional.linear in bf16 (cuBLAS). Run by gpu-prompts.mjs where there is torch.
# Usage: gpu-peak.py '{"rows": [128], "shapes": [[4096, 4096]]}'; prints {"peak": operations a second, "milliseconds": {"128 x 4096 x 4096": 0.1}}.
import json
import sys

import torch


def milliseconds(rows, out, inp):
    x = torch.randn(rows, inp, device="cuda", dtype=torch.bfloat16)
    # As many copies as caches cannot hold.
    copies = max(1, min(16, -(-200_000_000 // (2 * out * inp))))
    weights = [torch.randn(out, inp, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for weight in weights:
            torch.nn.functional.linear(x, weight)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / copies)
    return sorted(times[1:])[4]


asked = json.loads(sys.argv[1])
times = {f"{m} x {out} x {inp}": milliseconds(m, out, inp) for m in asked["rows"] for out, inp in asked["shapes"]}
print(json.dumps({"peak": 2 * 8192**3 / (milliseconds(8192, 8192, 8192) / 1e3), "milliseconds": times}))
