// What the modules of a decoder are built with: a program under way, and the constants of the checkpoint.

import type { ConstantId, HostTensor, LinearId, TensorId } from '@lowbit/core';
import type { ProgramBuilder } from '@lowbit/program';
import type { LinearSpec, NormSpec } from './spec.ts';

export interface Parts {
  readonly b: ProgramBuilder;
  /** Of the program, by index in `DecoderSpec.ropes`. */
  readonly ropes: readonly number[];
  constant(name: string): Promise<ConstantId>;
  norm(module: NormSpec, x: TensorId): Promise<TensorId>;
  addLinear(module: LinearSpec): Promise<LinearId>;
  linear(module: LinearSpec, x: TensorId): Promise<TensorId>;
}

export function partsOf(b: ProgramBuilder, read: (name: string) => Promise<HostTensor>, ropes: readonly number[]): Parts {
  const constant = async (name: string): Promise<ConstantId> => b.addConstant(await read(name));
  const addLinear = async ({ path, shape, bias }: LinearSpec): Promise<LinearId> =>
    b.addLinear(path, shape, bias ? { bias: await constant(`${path}.bias`) } : {});
  // Attention and MLP side by side may read one norm of one tensor: it is computed once.
  const normed = new Map<string, TensorId>();
  const norm = async ({ path, kind, width, eps, bias, weightOffset = 0 }: NormSpec, x: TensorId): Promise<TensorId> => {
    const key = `${x} ${path}`;
    const known = normed.get(key);
    if (known !== undefined) return known;
    const weight = await constant(`${path}.weight`);
    const shift = bias ? await constant(`${path}.bias`) : undefined;
    const y = b.norm(x, { kind, eps, groups: b.tensor(x).width / width, weight, weightOffset, bias: shift });
    normed.set(key, y);
    return y;
  };
  return { b, ropes, constant, norm, addLinear, linear: async (module, x) => b.linear(x, await addLinear(module)) };
}
