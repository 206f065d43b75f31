// The addon as it was built, beside the types that are written by hand.
import { ProgramBuilder } from '@lowbit/program';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { BINDING_ABI, BINDING_FUNCTIONS, type CpuBinding, type NativeStep, type WeightSpec } from './binding.ts';
import { addon as ladder } from './load.node.ts';
import { programSpec } from './program.ts';

let binding: CpuBinding | undefined;
let reason = '';
try {
  binding = ladder.load();
} catch (error) {
  reason = (error as Error).message;
}
const addon = (context: { skip(reason: string): void }): CpuBinding => {
  needs(context, 'kernels-cpu', binding !== undefined, reason);
  return binding!;
};

describe('the addon', () => {
  it('exports what the types say and nothing else', (context) => {
    expect(Object.keys(addon(context)).sort()).toEqual(['abi', ...BINDING_FUNCTIONS].sort());
    expect(binding!.abi).toBe(BINDING_ABI);
    expect(binding!.isas().at(-1)).toBe('scalar');
  });

  it('refuses sizes that do not fit, handles that are gone and weights that cannot be', (context) => {
    const native = addon(context);
    const machine = native.openMachine('scalar', 1);
    const spec: WeightSpec = { kind: 'tiles', out: 20, inp: 64, codes: 'c4', meta: 'f32', zeros: true, block: 64, classes: 1 };
    const numbers = { scale: new Float32Array(20), zero: new Float32Array(20) };
    expect(() => native.createWeight(spec, { ...numbers, zero: new Float32Array(19) })).toThrow('too short');
    for (const bad of [{ block: 60 }, { block: 256 }, { classes: 3 }, { out: 0 }, { out: 2 ** 52 }, { codes: 'c5' }, { meta: 'none' }]) {
      expect(() => native.weightBytes({ ...spec, ...bad } as WeightSpec), JSON.stringify(bad)).toThrow('kernels-cpu');
    }
    const weight = native.createWeight(spec, numbers);
    expect(() => native.putCodes(weight, 19, 2, new Uint8Array(128))).toThrow('does not fit');
    expect(() => native.putCodes(weight, 0, 2, new Uint8Array(127))).toThrow('too short');
    expect(() => native.putCodes(weight, 0, 1, new Uint8Array(64).fill(16))).toThrow('does not fit');
    expect(() => native.putDense(weight, 0, new Uint8Array(1))).toThrow('outside');
    expect(() => native.multiply(machine, weight, 2, 2, new Float32Array(127), new Float32Array(40))).toThrow('too short');
    expect(() => native.multiply(machine, weight, 2, 2, new Float32Array(128), new Float32Array(39))).toThrow('too short');
    for (const planes of [1, 4]) {
      expect(() => native.multiply(machine, weight, planes as 3, 1, new Float32Array(64), new Float32Array(20))).toThrow('planes');
    }
    expect(() => native.fillRows(machine, weight, 20, 1, new Float32Array(64))).toThrow('outside');
    for (const [x, out] of [
      [new Int32Array(128), new Float32Array(40)],
      [new Float32Array(128), new Uint32Array(40)],
    ]) {
      expect(() => native.multiply(machine, weight, 2, 2, x as never, out as never)).toThrow('another type');
    }
    expect(() => native.putCodes(weight, 0, 1, new Int8Array(64) as never)).toThrow('another type');
    native.freeWeight(weight);
    native.freeWeight(weight);
    expect(() => native.multiply(machine, weight, 2, 1, new Float32Array(64), new Float32Array(20))).toThrow('handle');
    native.closeMachine(machine);
    expect(() => native.fillRows(machine, weight, 0, 1, new Float32Array(64))).toThrow('handle');
  });

  it('refuses a step whose indices are outside of its rows, and goes on', async (context) => {
    const native = addon(context);
    const machine = native.openMachine('scalar', 2);
    const table = native.createWeight({ kind: 'dense', out: 5, inp: 8, dtype: 'f32' }, {});
    const b = new ProgramBuilder({ layers: 0 });
    const x = b.inject(b.embed(b.addLinear('e', [5, 8], { use: 'embedding' })), 'image');
    b.output('out', b.select(x));
    const program = native.compileProgram(machine, programSpec(b.build(), [table], { contextLength: 16, kvDtype: 'f32' }));
    const share = { id: 1, start: 0, length: 2, remembers: false, from: [0, 0, 0, 0], count: [2, 1, 0, 0], wanted: Uint32Array.of(1) };
    const injection = { out: x, at: Uint32Array.of(1), values: new Float32Array(8).fill(3) };
    const step: NativeStep = {
      tokens: Uint32Array.of(1, 4),
      rows: [2, 1, 0, 0],
      planes: 3,
      shares: [share],
      inputs: [],
      injections: [injection],
    };
    const bad: readonly Partial<NativeStep>[] = [
      { tokens: Uint32Array.of(1, 5) },
      { tokens: Uint32Array.of(1, -1) },
      { tokens: Uint32Array.of(1) },
      { planes: 4 as 3 },
      { planes: 1 as 3 },
      { shares: [{ ...share, wanted: Uint32Array.of(2) }] },
      { shares: [{ ...share, wanted: new Uint32Array(0) }] },
      { shares: [{ ...share, count: [3, 1, 0, 0] }] },
      { injections: [{ ...injection, at: Uint32Array.of(2) }] },
      { injections: [{ ...injection, values: new Float32Array(7) }] },
      { injections: [{ ...injection, out: 99 }] },
    ];
    for (const edit of bad) {
      await expect(native.stepProgram(program, { ...step, ...edit })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    }
    expect(() => native.stepProgram(program, { ...step, tokens: Int32Array.of(1, 4) as never })).toThrow('another type');
    await native.stepProgram(program, step);
    const out = new Float32Array(8);
    native.readTensor(program, b.build().outputs.out!, new Uint8Array(out.buffer));
    expect([...out]).toEqual(new Array(8).fill(3));
    const read = (count: number, values: number, ids: number) =>
      native.readLargest(program, b.build().outputs.out!, count, new Uint8Array(values), new Uint8Array(ids));
    expect(() => read(9, 36, 36)).toThrow('not so many');
    expect(() => read(0, 36, 36)).toThrow('not so many');
    expect(() => read(2, 7, 8)).toThrow('too short');
    expect(() => read(2, 8, 7)).toThrow('too short');
    native.freeProgram(program);
    native.freeWeight(table);
    native.closeMachine(machine);
  });
});
