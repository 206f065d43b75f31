// The adapter of a decoder family: all it takes is the function from config.json to a DecoderSpec.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { buildDecoder } from './build.ts';
import { checkTensors, decoderSites, decoderTensors, refuseFurtherLayers, refuseFurtherTensors } from './modules.ts';
import type { DecoderSpec } from './spec.ts';

/** What a decoder family is. `spec` throws ERR_BAD_CHECKPOINT or ERR_UNSUPPORTED_ARCH for configs it cannot serve. */
export interface DecoderFamily {
  readonly modelTypes: readonly string[];
  readonly spec: (config: JsonObject, entries: Entries) => DecoderSpec;
}

/** Makes a model adapter of a decoder family. `describe` throws ERR_TENSOR_MISMATCH where the tensors do not fit the config. */
export function decoderAdapter(family: DecoderFamily): ModelAdapter {
  return {
    spec: 1,
    modelTypes: family.modelTypes,
    linears(config, entries) {
      const spec = family.spec(config, entries);
      refuseFurtherLayers(spec, entries);
      return decoderSites(spec);
    },
    async describe(config, { entries, read, observe }) {
      const spec = family.spec(config, entries);
      const needed = decoderTensors(spec);
      checkTensors(needed.tensors, entries);
      refuseFurtherLayers(spec, entries);
      refuseFurtherTensors(needed, entries, spec.unread);
      const program = await buildDecoder(spec, read, observe ? { observe } : {});
      return { program, vocab: spec.vocab, contextLength: spec.contextLength, layers: spec.layers.length };
    },
  };
}
