// What the programs of the families are made of. Shapes and biases come from the tensors of the checkpoint, names from the family.

import { type Activation, type ConstantId, float32Tensor, type HostTensor, type LinearId, type TensorId, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/models';

export type Tensors = ReadonlyMap<string, HostTensor>;

/** Frequencies of the default rotary embedding. */
export function frequencies(base: number, dim: number): number[] {
  return Array.from({ length: dim / 2 }, (_, i) => base ** ((-2 * i) / dim));
}

/** A builder that knows the checkpoint. */
export class Parts {
  readonly b: ProgramBuilder;
  readonly #tensors: Tensors;

  constructor(tensors: Tensors, layers: number) {
    this.#tensors = tensors;
    this.b = new ProgramBuilder({ layers });
  }

  tensor(name: string): HostTensor {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new Error(`the checkpoint has no ${name}`);
    return tensor;
  }

  constant(name: string): ConstantId {
    const tensor = this.tensor(name);
    return this.b.addConstant(float32Tensor(tensor.shape, toFloat32(tensor)));
  }

  /** Declares `${path}.weight`, a matrix (or a convolution over patches, [out, ...]), with its bias if there is one. */
  weight(path: string, use: 'linear' | 'embedding' | 'both' = 'linear'): LinearId {
    const [out, ...rest] = this.tensor(`${path}.weight`).shape;
    const bias = this.#tensors.has(`${path}.bias`) ? this.constant(`${path}.bias`) : undefined;
    return this.b.addLinear(path, [out!, rest.reduce((product, extent) => product * extent, 1)], { use, bias });
  }

  linear(x: TensorId, path: string): TensorId {
    return this.b.linear(x, this.weight(path));
  }

  rmsNorm(x: TensorId, path: string, eps: number, weightOffset: 0 | 1 = 0): TensorId {
    return this.b.norm(x, { kind: 'rms', eps, weight: this.constant(`${path}.weight`), weightOffset });
  }

  layerNorm(x: TensorId, path: string, eps: number): TensorId {
    return this.b.norm(x, { kind: 'layer', eps, weight: this.constant(`${path}.weight`), bias: this.constant(`${path}.bias`) });
  }

  /** Consecutive elements of the given widths, from each of `groups` equal parts of a row. */
  split(x: TensorId, widths: readonly number[], groups = 1): TensorId[] {
    let end = 0;
    return widths.map((width) => {
      end += width;
      return this.b.slice(x, { groups, offset: end - width, width });
    });
  }

  /** Begins layer `index` (after the last: `layers`). Its input becomes the output `${name}.${index}`. */
  layer(index: number, x: TensorId, name = 'hidden', first = 0): TensorId {
    this.b.layer = first + index;
    this.b.output(`${name}.${index}`, x);
    return x;
  }

  /** Causal attention over the sequence so far, in a cache of its own. */
  attend(
    [q, k, v]: readonly TensorId[],
    options: { readonly kvHeads: number; readonly keyDim: number } & Omit<Parameters<ProgramBuilder['attend']>[1], 'k' | 'v' | 'cache'>,
  ): TensorId {
    const { kvHeads, keyDim } = options;
    const cache = this.b.addCache({ heads: kvHeads, keyDim, valueDim: keyDim });
    return this.b.attend(q!, { k, v, cache, ...options });
  }

  /** down(act(gate x) * up x). */
  gatedMlp(x: TensorId, path: string, kind: Activation, [gate, up, down] = ['gate_proj', 'up_proj', 'down_proj']): TensorId {
    return this.linear(this.b.gate(this.linear(x, `${path}.${gate}`), this.linear(x, `${path}.${up}`), kind), `${path}.${down}`);
  }

  /** second(act(first x)). */
  mlp(x: TensorId, first: string, second: string, kind: Activation): TensorId {
    return this.linear(this.b.activate(this.linear(x, first), kind), second);
  }

  /** The sum over the chosen experts of weight * down(act(gate x) * up x). `paths(name)` lists a linear of all experts. */
  experts(
    x: TensorId,
    router: string,
    options: { readonly topK: number; readonly normalize: boolean; readonly paths: readonly (readonly string[])[] },
  ): TensorId {
    const { topK, normalize, paths } = options;
    const { ids, weights } = this.b.route(this.linear(x, router), { topK, scoring: 'softmax', normalize });
    const each = (input: TensorId, names: readonly string[]): TensorId =>
      this.b.expertLinear(
        input,
        ids,
        names.map((name) => this.weight(name)),
      );
    const [gate, up, down] = paths;
    return this.b.combine(each(this.b.gate(each(x, gate!), each(x, up!), 'silu'), down!), weights);
  }
}
