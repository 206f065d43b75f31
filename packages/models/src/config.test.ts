// config.json is untrusted: whatever it holds, the answer is a spec or a LowbitError, soon.

import { isLowbitError, type Json, type JsonObject } from '@lowbit/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import * as golden from '../../../fixtures/golden.ts';
import { llamaSpec } from './adapters/llama.ts';
import { generationDefaults } from './sampling/settings.ts';
import { goldenContents } from './testing/memory-checkpoint.ts';
import { createTokenizer } from './text/tokenizer.ts';

const { config, tensors } = goldenContents(golden, 'llama-rope-llama3', 'config.v5.json');

/** Values that have broken loaders: wrong kinds, extremes, and any JSON. */
const value = fc.oneof(
  fc.constantFrom<Json>(null, true, '', '64', 0, -1, 0.5, 1e308, 2 ** 31, 2 ** 53, [], {}, ['llama3'], '__proto__'),
  fc.integer(),
  fc.jsonValue() as fc.Arbitrary<Json>,
);

function quietly(body: () => unknown): void {
  try {
    body();
  } catch (error) {
    if (!isLowbitError(error)) throw error;
  }
}

test('llamaSpec', () => {
  const ropeKeys = [...Object.keys(config.rope_parameters as JsonObject), 'type', 'partial_rotary_factor', 'attention_factor', 'truncate'];
  const change = fc.record({
    top: fc.dictionary(fc.constantFrom(...Object.keys(config)), value, { maxKeys: 3 }),
    rope: fc.dictionary(fc.constantFrom(...ropeKeys), value, { maxKeys: 2 }),
    kind: fc.constantFrom('default', 'linear', 'dynamic', 'llama3', 'yarn'),
  });
  fc.assert(
    fc.property(change, ({ top, rope, kind }) => {
      const rope_parameters = { ...(config.rope_parameters as JsonObject), rope_type: kind, ...rope };
      quietly(() => {
        const spec = llamaSpec({ ...config, rope_parameters, ...top }, tensors);
        for (const one of spec.ropes) if (one.kind === 'fixed') expect([...one.frequencies, one.scale].every(Number.isFinite)).toBe(true);
      });
    }),
    { numRuns: 500 },
  );
});

test('generation defaults', () => {
  const keys = ['do_sample', 'temperature', 'top_k', 'top_p', 'min_p', 'typical_p', 'repetition_penalty', 'eos_token_id'];
  fc.assert(
    fc.property(fc.dictionary(fc.constantFrom(...keys), value), (file) => quietly(() => generationDefaults(file, {}))),
    { numRuns: 500 },
  );
});

test('tokenizers', () => {
  const json = golden.goldenJson<JsonObject>('models/tokenizer-mistral/tokenizer.json');
  const model = json.model as JsonObject;
  const change = fc.record({
    top: fc.dictionary(fc.constantFrom(...Object.keys(json)), value, { maxKeys: 2 }),
    model: fc.dictionary(fc.constantFrom(...Object.keys(model)), value, { maxKeys: 2 }),
    config: fc.dictionary(fc.constantFrom('bos_token', 'chat_template', 'additional_special_tokens', 'remove_space'), value, {
      maxKeys: 2,
    }),
  });
  fc.assert(
    fc.property(change, (changed) =>
      quietly(() => {
        const tokenizer = createTokenizer({ ...json, model: { ...model, ...changed.model }, ...changed.top }, changed.config);
        tokenizer.decode(tokenizer.encode('<s> Hello 窓'));
      }),
    ),
    { numRuns: 200 },
  );
});
