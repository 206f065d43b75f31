"""The Python side of quantize-peers.mjs: reads one JSON request a line, quantizes, answers with wall and processor seconds."""

import json
import sys
import time

import numpy
import torch

for line in sys.stdin:
    job = json.loads(line)
    torch.set_num_threads(job["threads"])
    weight = torch.from_numpy(numpy.fromfile(job["file"], dtype=numpy.float32).reshape(job["size"], job["size"]))
    bits, method = job.get("bits", 4), job.get("method", "hqq")
    if method == "hqq":
        from hqq.core.quantize import Quantizer
    else:
        from bitsandbytes.functional import quantize_4bit
    wall, cpu = time.perf_counter(), time.process_time()
    if method == "hqq":
        Quantizer.quantize(
            weight, nbits=bits, group_size=job.get("groupSize", 64), axis=job["axis"], channel_wise=True,
            optimize=True, round_zero=bits == 4, device="cpu", compute_dtype=torch.float32,
        )
    else:
        quantize_4bit(weight, quant_type=method, compress_statistics=job.get("doubleQuant", False))
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)
