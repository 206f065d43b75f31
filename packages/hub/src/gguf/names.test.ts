import { expect, test } from 'vitest';
import { architectureOf } from './architectures.ts';
import type { GgufTensor } from './header.ts';
import { ggufMetadata } from './metadata.ts';
import { mapTensors } from './names.ts';
import { GGML_TYPES } from './types.ts';

test('experts of a file that is all experts are counted before there are millions', () => {
  const experts = 4096;
  const numbers = { embedding_length: 8, block_count: 100, expert_count: experts, expert_used_count: 2, 'attention.head_count': 2 };
  const metadata = new Map<string, number | string>(Object.entries(numbers).map(([key, value]) => [`llama.${key}`, value]));
  const architecture = architectureOf(ggufMetadata(metadata.set('general.architecture', 'llama'), 'm.gguf'));
  const layers = (count: number): ReadonlyMap<string, GgufTensor> =>
    new Map(
      Array.from({ length: count }, (_, i) => [
        `blk.${i}.ffn_up_exps.weight`,
        { type: GGML_TYPES.get(0)!, shape: [experts, 1, 1], start: 4 * experts * i, end: 4 * experts * (i + 1) },
      ]),
    );
  const mapped = (count: number) => mapTensors({ version: 3, metadata, tensors: layers(count), dataStart: 0 }, architecture, 'm.gguf');
  expect(mapped(2).size).toBe(2 * experts);
  expect(() => mapped(65)).toThrow(expect.objectContaining({ code: 'ERR_LIMIT', message: expect.stringContaining('262144') }));
});
