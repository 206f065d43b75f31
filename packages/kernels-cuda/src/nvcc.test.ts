// The compile gate: what nvcc makes of the kernels, and whether our declarations of the driver's interface are those of the toolkit. Needs no GPU.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { addon } from './load.node.ts';

interface Assembled {
  readonly kernel: string;
  readonly target: string;
  readonly registers: number;
  readonly stack: number;
  readonly spilled: number;
}
interface Tools {
  readonly CUBINS: readonly string[];
  findNvcc(): string | undefined;
  toolkitVersion(nvcc: string): number;
  compileKernels(nvcc: string, out: string): readonly Assembled[];
  assembled(text: string): readonly Assembled[];
}

const home = new URL('..', import.meta.url);
const path = (name: string): string => fileURLToPath(new URL(name, home));
const tools = (await import(path('nvcc.mjs'))) as Tools;
const nvcc = process.env.LOWBIT_NVCC === 'off' ? undefined : tools.findNvcc();
const toolkit = (context: { skip(reason: string): void }): string => {
  needs(context, 'nvcc', nvcc !== undefined, 'there is no nvcc (LOWBIT_NVCC names one)');
  return nvcc!;
};

/** An addon is to have less, in bytes. */
const MOST_BYTES = 5_000_000;

describe('the kernels by nvcc', () => {
  it('spill nothing, and take no more registers than the table says', { timeout: 900_000 }, (context) => {
    const compiler = toolkit(context);
    const dir = mkdtempSync(join(tmpdir(), 'lowbit-nvcc-'));
    try {
      const out = join(dir, 'kernels.fatbin');
      const kernels = tools.compileKernels(compiler, out);
      expect(statSync(out).size).toBeLessThan(0.8 * MOST_BYTES);
      expect(readFileSync(out).readUInt32LE(0)).toBe(0xba55ed50); // what a driver takes for a fat binary
      const names = [...readFileSync(path('native/kernels/kernels.def'), 'utf8').matchAll(/^KERNEL\((\w+)/gm)].map(([, name]) => name!);
      const table = JSON.parse(readFileSync(path('native/kernels/registers.json'), 'utf8')) as Record<string, number>;
      expect(Object.keys(table).sort()).toEqual(names.sort());
      expect(kernels.map(({ kernel, target }) => `${kernel} ${target}`).sort()).toEqual(
        names.flatMap((name) => tools.CUBINS.map((target) => `${name} ${target}`)).sort(),
      );
      const bad = kernels.filter(({ kernel, registers, stack, spilled }) => stack !== 0 || spilled !== 0 || registers > table[kernel]!);
      expect(bad).toEqual([]);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('read what the assembler says', () => {
    const text = `ptxas info    : Compiling entry function 'add' for 'sm_80'
ptxas info    : Function properties for add
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers, 384 bytes cmem[0]
ptxas info    : Compiling entry function 'scale' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers`;
    expect(tools.assembled(text)).toEqual([
      { kernel: 'add', target: 'sm_80', registers: 12, stack: 8, spilled: 16 },
      { kernel: 'scale', target: 'sm_90', registers: 10, stack: 0, spilled: 0 },
    ]);
  });

  it("declare the driver's interface as cuda.h does", (context) => {
    const include = join(dirname(dirname(toolkit(context))), 'include');
    needs(context, 'nvcc', existsSync(join(include, 'cuda.h')), `there is no cuda.h in ${include}`);
    const args = ['-std=c++20', '-fsyntax-only', '-isystem', include, path('native/test/abi_check.cpp')];
    const { status, stderr } = spawnSync(process.env.CXX || 'g++', args, { encoding: 'utf8' });
    expect(stderr).toBe('');
    expect(status).toBe(0);
  });

  it('are in the addon, which stays small', (context) => {
    const compiler = toolkit(context);
    const file = path('build/Release/lowbit_cuda.node');
    needs(context, 'kernels-cuda', existsSync(file), 'the addon is not built');
    const { bytes, targets, version } = addon.load().image();
    needs(context, 'nvcc', bytes > 0, 'the addon was built without nvcc');
    expect(targets).toBe([...tools.CUBINS, 'compute_80'].join(' '));
    expect(version).toBe(tools.toolkitVersion(compiler));
    expect(readFileSync(file).subarray(0, 4).toString('latin1')).toBe('\u007fELF');
    expect(statSync(file).size).toBeLessThan(MOST_BYTES);
  });
});
