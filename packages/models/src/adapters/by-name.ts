// Linear layers by the names and shapes of tensors alone: enough to quantize an architecture that nothing here can run.

import { type Entries, type LinearSite, LowbitError, linearTag, type ModelAdapter } from '@lowbit/core';

/** Tables that are looked up in, by the last part of their name; norms have one axis. */
const TABLES = /^(wte|wpe|shared|\w*embed\w*|\w*embd|relative_attention_bias)$/;
/** Routers of mixtures. */
const ROUTERS = /^(gate|router)$/;
const FLOATS: ReadonlySet<string> = new Set(['f32', 'f16', 'bf16']);

/**
 * An adapter for quantizing alone: every floating-point `*.weight` [out, in] inside of numbered layers is a linear, but tables of embeddings. What lies
 * outside of layers (heads, projections) and routers stay in floating point unless a rule names them. A weight that is stored as [in, out] cannot be told
 * from its name. `describe` throws ERR_UNSUPPORTED_ARCH.
 *
 * @example
 * await quantizeCheckpoint(source, { out, quantizer: hqq(), adapters: [...defaultAdapters, byName('my_architecture')] });
 */
export function byName(modelType: string): ModelAdapter {
  return {
    spec: 1,
    modelTypes: [modelType],
    linears: (_config, entries) => linearsByName(entries),
    async describe() {
      throw new LowbitError('ERR_UNSUPPORTED_ARCH', `model_type ${JSON.stringify(modelType)} can be quantized by names, but not run`, {
        hint: 'Running it takes an adapter of its own: see docs of @lowbit/models.',
        details: { modelType },
      });
    },
  };
}

function linearsByName(entries: Entries): readonly LinearSite[] {
  const sites: LinearSite[] = [];
  for (const [name, { dtype, shape }] of entries) {
    const [out, inp] = shape;
    if (!name.endsWith('.weight') || !FLOATS.has(dtype) || shape.length !== 2 || !out || !inp) continue;
    const path = name.slice(0, -'.weight'.length);
    const parts = path.split('.');
    const last = parts.at(-1)!;
    if (TABLES.test(last)) continue;
    const layer = parts.find((part) => /^\d+$/.test(part));
    sites.push({
      path,
      tag: linearTag(path),
      layer: layer === undefined ? -1 : Number(layer),
      shape: [out, inp],
      bias: entries.has(`${path}.bias`),
      ...(layer === undefined || ROUTERS.test(last) ? { keep: true } : {}),
    });
  }
  return sites;
}
