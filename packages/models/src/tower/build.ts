// From a tower's description to the program of one image: patches as input rows, with a row of zeros before them where there is a class token.

import { float32Tensor, type HostTensor, type ImageDescription, LowbitError, type TensorId, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { decoderLayer } from '../decoder/build.ts';
import { mlp } from '../decoder/mlp.ts';
import { type Parts, partsOf } from '../decoder/parts.ts';
import { type TowerSpec, towerRows } from './spec.ts';

type Read = (name: string) => Promise<HostTensor>;

/**
 * Builds the program, and says what it takes and gives. Observable are `hidden.0` (the input of the first layer) to `hidden.N`: a row for every row of the
 * image. Throws ERR_BAD_ARGUMENT for another name in `observe`.
 */
export async function buildTower(
  spec: TowerSpec,
  read: Read,
  { observe = [] }: { readonly observe?: readonly string[] | undefined } = {},
): Promise<ImageDescription> {
  const { image, hidden, layers, classToken, patches } = spec;
  const names = Array.from({ length: layers.length + 1 }, (_, k) => `hidden.${k}`);
  const unknown = observe.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `cannot observe ${JSON.stringify(unknown)}`, {
      hint: `Observable here: ${names[0]} .. ${names.at(-1)}.`,
      details: { name: unknown, observable: names },
    });
  }
  const b = new ProgramBuilder({ layers: layers.length });
  const parts = partsOf(b, read, []);
  const width = image.channels * image.patch ** 2;
  const cut = b.linear(b.input('patches', { width }), b.addLinear(patches.path, [hidden, width]));
  let x = b.positionEmbed(cut, b.addConstant(await placeTable(spec, read)));
  if (spec.norm) x = await parts.norm(spec.norm, x);
  for (const [index, layer] of layers.entries()) {
    b.layer = index;
    if (observe.includes(names[index]!)) b.output(names[index]!, x);
    x = await decoderLayer(parts, layer, x);
  }
  b.layer = layers.length;
  if (observe.includes(names.at(-1)!)) b.output(names.at(-1)!, x);
  const output = await outputs(parts, spec, x);
  const rows = towerRows(spec);
  const prefix = classToken ? 1 : 0;
  const every = spec.output.kind === 'features';
  return {
    ...image,
    program: b.build(),
    prefix,
    wanted: every ? [spec.output.kind === 'features' && spec.output.classToken ? 0 : prefix, rows] : [0, 1],
    output,
  };
}

/** Makes the outputs; returns the name of the one that an image is turned into. */
async function outputs(parts: Parts, { output }: TowerSpec, x: TensorId): Promise<string> {
  const { b } = parts;
  const named = (name: string, tensor: TensorId): string => {
    b.output(name, tensor);
    return name;
  };
  if (output.kind === 'features') return named('image_features', await mlp(parts, output.projector, b.select(x)));
  if (output.kind === 'clip') {
    b.output('last_hidden_state', x);
    const pooled = await parts.norm(output.norm, b.select(x));
    const name = named('pooler_output', pooled);
    return output.project ? named('image_embeds', await parts.linear(output.project, pooled)) : name;
  }
  const features = await parts.norm(output.norm, x);
  b.output('features', features);
  const first = b.select(features);
  const name = named('pooled', first);
  return output.head ? named('logits', await parts.linear(output.head, first)) : name;
}

/**
 * What is added to the rows after the convolution: positions, the class token in the row of zeros, and the bias of the convolution in the others, so that
 * the row of zeros does not get it.
 */
async function placeTable({ hidden, classToken, positions, patches, ...spec }: TowerSpec, read: Read): Promise<HostTensor> {
  const table = Float64Array.from(toFloat32(await read(positions.tensor)));
  const rows = towerRows({ hidden, classToken, positions, patches, ...spec } as TowerSpec);
  const first = classToken ? toFloat32(await read(classToken.tensor)) : undefined;
  const bias = patches.bias ? toFloat32(await read(`${patches.path}.bias`)) : undefined;
  for (let i = 0; i < hidden; i++) {
    if (first) table[i]! += first[i]!;
    if (bias) for (let row = first ? 1 : 0; row < rows; row++) table[row * hidden + i]! += bias[i]!;
  }
  return float32Tensor([rows, hidden], Float32Array.from(table));
}
