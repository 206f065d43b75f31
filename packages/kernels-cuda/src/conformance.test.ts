// The conformance kit on the emulator: all of JavaScript, addon, driver interface and kernels.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { backendConformance } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

it('addon and emulator are there', (context) => needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? ''));

if (noFakeDriver === undefined) {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-cuda-'));
  afterAll(() => rmSync(dir, { recursive: true }));
  const log = join(dir, 'launches');
  pretend({ log });
  backendConformance(cuda({ driver: FAKE_DRIVER }), { describe, it });

  it('has run every kernel', () => {
    const def = readFileSync(new URL('../native/kernels/kernels.def', import.meta.url), 'utf8');
    const names = [...def.matchAll(/^KERNEL\((\w+)/gm)].map(([, name]) => name!);
    const run = new Set(
      readFileSync(log, 'utf8')
        .split('\n')
        .map((line) => line.split(' ')[0]!),
    );
    // The kit's decoders and experts are dense (fuse.test.ts and experts.test.ts have others) and its heads small (attention.test.ts), reading alone is for scripts/gpu-check.mjs, and quantizing for
    // e2e/kernels-cuda-quantize.test.ts.
    const quantizing = [
      'bnb_absmax',
      'bnb_clipped',
      'bnb_four_bit',
      'bnb_int8',
      'bnb_nested',
      'bnb_scale_search',
      'flute_pack',
      'higgs_code',
      'hqq_finish',
      'hqq_least_squares',
      'hqq_min_max',
      'hqq_pack',
      'hqq_proximal',
      'hqq_scale_search',
      'sum_columns',
    ];
    const experts = ['codebook_experts', 'gemv_experts', 'int8_expert_product', 'int8_experts', 'int8_marks', 'mma_experts'];
    const fused = [
      'gemv_added',
      'gemv_gated',
      'gemv_normed',
      'int8_added',
      'int8_few',
      'int8_gated',
      'int8_normed',
      'table_added',
      'table_gated',
      'table_normed',
    ];
    const others = [...quantizing, ...experts, ...fused, 'attend_tiles128', 'attend_tiles256', 'read_words'].sort();
    expect(names.filter((name) => !run.has(name)).sort()).toEqual(others);
  });
}
