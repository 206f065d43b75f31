// The native kernels of arm64, built on this machine and run under qemu: every instruction set is forced, and gives the bytes that this machine's give.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const script = fileURLToPath(new URL('../packages/kernels-cpu/native/test/run-arm64.mjs', import.meta.url));
const addon = fileURLToPath(new URL('../packages/kernels-cpu/build/Release/lowbit_cpu.node', import.meta.url));

/** Standard output of a step; rejects with what the step wrote. */
const run = async (step: string): Promise<string> => (await promisify(execFile)(process.execPath, [script, step])).stdout;

let reason = '';
beforeAll(async () => {
  if (!existsSync(addon)) {
    reason = 'the addon of kernels-cpu, whose bytes are compared, is not built';
    return;
  }
  await run('check').catch((error: { readonly stderr: string }) => {
    reason = error.stderr.trim();
  });
});

describe('arm64', () => {
  it('builds the addon and the C++ tests', async (context) => {
    needs(context, 'arm64', reason === '', reason);
    expect(await run('build')).toContain('lowbit_cpu.node');
  });

  it.for([
    ['max', 'i8mm, dotprod, neon, scalar'],
    ['cortex-a76', 'dotprod, neon, scalar'],
    ['cortex-a57', 'neon, scalar'],
  ] as const)('on %s: %s, the same bytes as here', async ([processor, isas], context) => {
    needs(context, 'arm64', reason === '', reason);
    expect(await run(processor)).toMatch(new RegExp(`^${processor}: ok \\(${isas}; [1-9]\\d+ hashes`));
  });
});
