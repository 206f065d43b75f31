# Logits of a folder that hqq's Python loader opens: hqq-logits.py FOLDER IDS.json OUT (float32, [tokens, vocab]). Prints versions, and how many linears are hqq's own.
import json
import sys
from importlib.metadata import version

import torch
import transformers

folder, ids, out = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
with torch.no_grad():
    logits = model(torch.tensor([json.load(open(ids))])).logits[0]
logits.numpy().astype("<f4").tofile(out)
linears = sum(type(module).__name__ == "HQQLinear" for module in model.modules())
print(json.dumps({"hqq": version("hqq"), "transformers": transformers.__version__, "linears": linears}))
