// Encoder-decoder models (T5): two stacks as plain data, and their two programs. The encoder reads the prompt, all tokens at once; every block of the decoder
// attends to what came out of it. Scores carry a bias that is looked up by distance, from one table a stack; no part of a score is scaled.

import {
  type HostTensor,
  type LinearSite,
  LowbitError,
  linearTag,
  type PositionBias,
  type Program,
  type Shape,
  type TensorId,
} from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { mlp } from './mlp.ts';
import { mlpLinears, type Needed, tensorList } from './modules.ts';
import { type Parts, partsOf } from './parts.ts';
import type { LinearSpec, MlpSpec, NormSpec, OutputSpec } from './spec.ts';

/** Attention within a stack, or from the decoder to the encoder's rows. */
export interface StackAttention {
  readonly input: NormSpec;
  readonly q: LinearSpec;
  readonly k: LinearSpec;
  readonly v: LinearSpec;
  readonly o: LinearSpec;
}

/** x += o(attention(input(x))), of the stack and then of the encoder's rows; x += module(input(x)). */
export interface StackBlock {
  readonly self: StackAttention;
  /** Of decoders. */
  readonly cross?: StackAttention;
  readonly mlp: { readonly input: NormSpec; readonly module: MlpSpec };
}

export interface StackSpec {
  /** Table of biases by distance: `${bias}.weight` [buckets, heads]. */
  readonly bias: string;
  readonly blocks: readonly StackBlock[];
  readonly norm: NormSpec;
}

export interface EncoderDecoderSpec {
  readonly vocab: number;
  readonly hidden: number;
  readonly contextLength: number;
  /** The token that the decoder's text begins with. */
  readonly start: number;
  /** Table [vocab, hidden] of both stacks. */
  readonly embedding: { readonly path: string };
  readonly heads: number;
  readonly headDim: number;
  readonly buckets: number;
  readonly maxDistance: number;
  readonly encoder: StackSpec;
  readonly decoder: StackSpec;
  readonly output: OutputSpec;
  readonly unread?: RegExp;
}

const attentionLinears = ({ q, k, v, o }: StackAttention): readonly LinearSpec[] => [q, k, v, o];

function blockLinears({ self, cross, mlp: { module } }: StackBlock): readonly LinearSpec[] {
  return [...attentionLinears(self), ...(cross ? attentionLinears(cross) : []), ...mlpLinears(module)];
}

function blockNorms({ self, cross, mlp: { input } }: StackBlock): readonly NormSpec[] {
  return [self.input, ...(cross ? [cross.input] : []), input];
}

/** Every linear layer as a site, those of the encoder first; decoder blocks are counted on from them. */
export function stackSites({ encoder, decoder, output }: EncoderDecoderSpec): LinearSite[] {
  const site = (layer: number, { path, shape, bias, keep }: LinearSpec): LinearSite => ({
    path,
    tag: linearTag(path),
    layer,
    shape,
    bias,
    ...(keep && { keep }),
  });
  const blocks = [...encoder.blocks, ...decoder.blocks];
  return [
    ...blocks.flatMap((block, i) => blockLinears(block).map((module) => site(i, module))),
    ...(output.head ? [site(-1, output.head)] : []),
  ];
}

/** Name and shape of every tensor the model reads, and its linears. */
export function stackTensors(spec: EncoderDecoderSpec): Needed {
  const { vocab, hidden, embedding, encoder, decoder, output, buckets, heads } = spec;
  const blocks = [...encoder.blocks, ...decoder.blocks];
  const linears = [...blocks.flatMap(blockLinears), ...(output.head ? [output.head] : [])];
  const tables: [string, Shape][] = [
    [embedding.path, [vocab, hidden]],
    [encoder.bias, [buckets, heads]],
    [decoder.bias, [buckets, heads]],
  ];
  return tensorList({ linears, norms: [...blocks.flatMap(blockNorms), encoder.norm, decoder.norm], tables });
}

/** Names that `observe` takes, by program. */
function stackObservable({ encoder, decoder }: EncoderDecoderSpec): { readonly encoder: string[]; readonly decoder: string[] } {
  const hidden = (stack: string, { blocks }: StackSpec): string[] =>
    Array.from({ length: blocks.length + 1 }, (_, k) => `${stack}.hidden.${k}`);
  return { encoder: hidden('encoder', encoder), decoder: [...hidden('decoder', decoder), 'decoder.final_norm'] };
}

/**
 * Builds both programs. The encoder's output `encoder_output` [tokens, hidden] is the decoder's input of that name, handed in once a sequence.
 * Throws ERR_BAD_ARGUMENT for an unknown name in `observe`.
 */
export async function buildStacks(
  spec: EncoderDecoderSpec,
  read: (name: string) => Promise<HostTensor>,
  { observe = [] }: { readonly observe?: readonly string[] } = {},
): Promise<{ readonly encoder: Program; readonly decoder: Program }> {
  const names = stackObservable(spec);
  const known = [...names.encoder, ...names.decoder];
  const unknown = observe.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `cannot observe ${JSON.stringify(unknown)}`, {
      hint: `Observable here: ${known.join(', ')}.`,
      details: { name: unknown, observable: known },
    });
  }
  const observed = new Set(observe);
  return { encoder: await encoderProgram(spec, read, observed), decoder: await decoderProgram(spec, read, observed) };
}

async function biasOf(
  { constant }: Parts,
  { buckets, maxDistance }: EncoderDecoderSpec,
  stack: StackSpec,
  side: 'both' | 'before',
): Promise<PositionBias> {
  return { kind: 'relative', table: await constant(`${stack.bias}.weight`), buckets, maxDistance, bidirectional: side === 'both' };
}

async function encoderProgram(
  spec: EncoderDecoderSpec,
  read: (name: string) => Promise<HostTensor>,
  observed: ReadonlySet<string>,
): Promise<Program> {
  const { encoder, vocab, hidden, heads, headDim: keyDim } = spec;
  const b = new ProgramBuilder({ layers: encoder.blocks.length });
  const parts = partsOf(b, read, []);
  const watch = watching(b, observed);
  let x = b.embed(b.addLinear(spec.embedding.path, [vocab, hidden], { use: 'embedding' }));
  const bias = await biasOf(parts, spec, encoder, 'both');
  for (const [index, { self, mlp: after }] of encoder.blocks.entries()) {
    b.layer = index;
    watch(`encoder.hidden.${index}`, x);
    const normed = await parts.norm(self.input, x);
    const [q, k, v] = [await parts.linear(self.q, normed), await parts.linear(self.k, normed), await parts.linear(self.v, normed)];
    // Every row sees every row of its sequence, those of this step: no cache.
    x = b.add(x, await parts.linear(self.o, b.attend(q, { k, v, heads, keyDim, scale: 1, causal: false, bias })));
    x = b.add(x, await mlp(parts, after.module, await parts.norm(after.input, x)));
  }
  b.layer = encoder.blocks.length;
  watch(`encoder.hidden.${encoder.blocks.length}`, x);
  b.output('encoder_output', await parts.norm(encoder.norm, x));
  return b.build();
}

async function decoderProgram(
  spec: EncoderDecoderSpec,
  read: (name: string) => Promise<HostTensor>,
  observed: ReadonlySet<string>,
): Promise<Program> {
  const { decoder, vocab, hidden, heads, headDim: keyDim, output } = spec;
  const b = new ProgramBuilder({ layers: decoder.blocks.length });
  const parts = partsOf(b, read, []);
  const watch = watching(b, observed);
  const encoded = b.input('encoder_output', { rows: 'encoder', width: hidden });
  const table = b.addLinear(spec.embedding.path, [vocab, hidden], { use: output.head ? 'embedding' : 'both' });
  let x = b.embed(table);
  const bias = await biasOf(parts, spec, decoder, 'before');
  for (const [index, { self, cross, mlp: after }] of decoder.blocks.entries()) {
    b.layer = index;
    watch(`decoder.hidden.${index}`, x);
    const normed = await parts.norm(self.input, x);
    const [q, k, v] = [await parts.linear(self.q, normed), await parts.linear(self.k, normed), await parts.linear(self.v, normed)];
    const cache = b.addCache({ heads, keyDim, valueDim: keyDim });
    x = b.add(x, await parts.linear(self.o, b.attend(q, { k, v, cache, heads, keyDim, scale: 1, bias })));
    if (cross) {
      const rows = b.addCache({ rows: 'encoder', heads, keyDim, valueDim: keyDim });
      b.remember(await parts.linear(cross.k, encoded), await parts.linear(cross.v, encoded), rows);
      const asked = await parts.linear(cross.q, await parts.norm(cross.input, x));
      x = b.add(x, await parts.linear(cross.o, b.attend(asked, { cache: rows, heads, keyDim, scale: 1, causal: false })));
    }
    x = b.add(x, await mlp(parts, after.module, await parts.norm(after.input, x)));
  }
  b.layer = decoder.blocks.length;
  watch(`decoder.hidden.${decoder.blocks.length}`, x);
  const last = watch('decoder.final_norm', await parts.norm(decoder.norm, b.select(x)));
  const { head, factor = 1 } = output;
  const scaled = factor === 1 ? last : b.scale(last, factor);
  b.output('logits', b.linear(scaled, head ? await parts.addLinear(head) : table));
  return b.build();
}

function watching(b: ProgramBuilder, observed: ReadonlySet<string>): (name: string, tensor: TensorId) => TensorId {
  return (name, tensor) => {
    if (observed.has(name)) b.output(name, tensor);
    return tensor;
  };
}
