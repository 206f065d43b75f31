// SmolLM2-135M-Instruct, a published model, end to end: quantized to 4 bits it still answers. Runs when LOWBIT_SMOLLM2 names its folder.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRuntime, referenceBackend } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama, loadModel } from '@lowbit/models';
import { expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const folder = process.env.LOWBIT_SMOLLM2;

it('answers at 4 bits in groups of 64', async (context) => {
  needs(context, 'smollm2', folder !== undefined, 'LOWBIT_SMOLLM2 does not name the folder of SmolLM2-135M-Instruct');
  const dir = await mkdtemp(join(tmpdir(), 'lowbit-smollm2-'));
  try {
    const out = join(dir, 'q4');
    await using source = await openCheckpoint(folder!);
    const report = await quantizeCheckpoint(source, { out, quantizer: hqq({ bits: 4, groupSize: 64 }), adapters: [llama] });
    expect(report.linears.length).toBe(210);
    expect(report.weightError).toBeCloseTo(0.005553, 5);
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using checkpoint = await openCheckpoint(out);
    await using model = await loadModel(checkpoint, { runtime });
    const { text, finishReason } = await model.generate({
      messages: [{ role: 'user', content: 'What is the capital of France?' }],
      temperature: 0,
      maxTokens: 30,
    });
    expect(text).toContain('The capital of France is Paris');
    expect(finishReason).toBe('stop');
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
