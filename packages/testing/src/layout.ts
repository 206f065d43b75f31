// Conformance of a checkpoint layout: what it writes is what it announces, is found again, and reads back as the same weight.

import {
  byteLength,
  type CheckpointLayout,
  codecFor,
  type Entries,
  type FormatCodec,
  type HostTensor,
  isLowbitError,
  type JsonObject,
  type LayoutTensor,
  linearTag,
  memorySource,
  type PlannedLinear,
  type QuantizedSite,
  type QuantizedTensor,
  type Quantizer,
  type TensorSource,
  toFloat32,
} from '@lowbit/core';
import { layoutBytes, readStoredLinear } from '@lowbit/layouts';
import { checkClose } from './compare.ts';
import { type Case, check, checkJson, registerCases, type TestRunner } from './kit.ts';
import { seededTensor } from './random.ts';

/** A weight that the layout must store. */
export interface LayoutSample {
  readonly name: string;
  /** What made it. */
  readonly use: Quantizer;
  readonly weight: QuantizedTensor;
}

/** Of `layoutConformance`. */
export interface LayoutConformanceOptions {
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
  /** config.json of the model, without `quantization_config`; default one of a Llama. */
  readonly config?: JsonObject;
}

/** Reading the layout of a checkpoint looks at tensors of no more bytes than this. */
const SMALL = 2 ** 16;
const PATHS = ['model.layers.0.mlp.down_proj', 'model.layers.1.mlp.down_proj'];
const KEPT = 'lm_head';
const LLAMA: JsonObject = { architectures: ['LlamaForCausalLM'], model_type: 'llama', num_hidden_layers: 2 };

type Tensors = Readonly<Record<string, HostTensor>>;

/** A checkpoint in memory: two quantized linears, the first with a bias, one that was kept, and a norm. */
interface Written {
  readonly linears: readonly PlannedLinear[];
  readonly tensors: Tensors;
  /** Of those, what the layout has for quantized linears. */
  readonly own: Tensors;
  readonly config: JsonObject;
}

function sites({ use, weight: { format, shape } }: LayoutSample): readonly QuantizedSite[] {
  return PATHS.map((path, layer) => ({ site: { path, tag: linearTag(path), layer, shape, bias: layer === 0 }, use, format }));
}

function tensorsOf(layout: CheckpointLayout, site: QuantizedSite): readonly LayoutTensor[] {
  return layout.tensors(site, { computeDtype: 'f16', weightDtype: 'f16' });
}

function written(layout: CheckpointLayout, sample: LayoutSample, model: JsonObject): Written {
  const { shape, parts } = sample.weight;
  const quantized = sites(sample);
  const kept: PlannedLinear = { site: { path: KEPT, tag: KEPT, layer: -1, shape: [16, 16], bias: false }, use: 'keep' };
  const own = Object.fromEntries(
    quantized.flatMap((site) =>
      tensorsOf(layout, site).map((tensor): [string, HostTensor] => {
        const data = layoutBytes(tensor, parts).slice();
        const { dtype, shape } = tensor.spec;
        return [tensor.name, { dtype, shape: 'late' in tensor.content && !tensor.content.exact ? [data.byteLength] : shape, data }];
      }),
    ),
  );
  const linears = [...quantized, kept];
  const block = layout.config(linears);
  return {
    linears,
    own,
    tensors: {
      ...own,
      [`${PATHS[0]}.bias`]: seededTensor(3, [shape[0]]),
      [`${KEPT}.weight`]: seededTensor(4, [16, 16]),
      'model.norm.weight': seededTensor(5, [16]),
    },
    config: block === undefined ? model : { ...model, quantization_config: block },
  };
}

/** Notes the bytes of the largest tensor that something was read of. */
function watched(tensors: Tensors): {
  readonly source: TensorSource;
  readonly largest: () => { readonly name: string; readonly bytes: number };
} {
  const inner = memorySource(tensors);
  let largest = { name: '', bytes: 0 };
  const source: TensorSource = {
    ...inner,
    read(name, options) {
      const entry = inner.entries.get(name);
      if (entry !== undefined && byteLength(entry) > largest.bytes) largest = { name, bytes: byteLength(entry) };
      return inner.read(name, options);
    },
  };
  return { source, largest: () => largest };
}

/** The cases, for any way of running them. Samples of over 64 KiB of codes also tell whether a layout reads more than it should. */
export function layoutCases(
  layout: CheckpointLayout,
  samples: readonly LayoutSample[],
  { codecs = [], config: model = LLAMA }: LayoutConformanceOptions = {},
): readonly Case[] {
  const numbers = (weight: QuantizedTensor): Float32Array => toFloat32(codecFor(weight.format, codecs).dequantize(weight));
  const readAll = async (config: JsonObject, tensors: Tensors): Promise<ReadonlyMap<string, QuantizedTensor>> => {
    const source = memorySource(tensors);
    const stored = await layout.read(config, source);
    const weights = new Map<string, QuantizedTensor>();
    for (const [path, linear] of stored) weights.set(path, await readStoredLinear(source, linear, { path, codecs }));
    return weights;
  };

  return samples.flatMap((sample): Case[] => {
    const on = (name: string, run: () => Promise<void>): Case => ({ group: sample.name, name, run });
    return [
      on('accepts what it stores, and no format that it does not know', async () => {
        const { use, weight } = sample;
        check(layout.accepts(use, weight.format), 'it does not accept the format of the sample');
        check(layout.accepts(use, structuredClone(weight.format)), 'it does not accept a clone of the format');
        const other = { kind: 'custom', codec: 'no such codec', config: {} } as never;
        check(!layout.accepts(use, other), 'it accepts a custom format of a codec that does not exist');
      }),
      on('announces its tensors with the sizes of their bytes', async () => {
        const { parts } = sample.weight;
        const names = new Set<string>();
        for (const site of sites(sample)) {
          const list = tensorsOf(layout, site);
          check(list.length > 0, 'it has no tensors');
          check(JSON.stringify(list) === JSON.stringify(tensorsOf(layout, site)), 'two calls give different tensors');
          for (const tensor of list) {
            const { name, spec, content } = tensor;
            check(!names.has(name), `two tensors are called ${name}`);
            names.add(name);
            if ('part' in content)
              check(parts[content.part] !== undefined, `${name} is part ${content.part}, which the format does not have`);
            if (!('late' in content)) {
              const { byteLength: bytes } = layoutBytes(tensor, parts);
              check(bytes === byteLength(spec), `${name} has ${bytes} bytes, announced ${byteLength(spec)}`);
              continue;
            }
            if (content.exact)
              check(layoutBytes({ name, spec, content }, parts).byteLength === byteLength(spec), `${name} is exact, and has other bytes`);
            else check(spec.dtype === 'u8' && spec.shape.length === 1, `${name} is late, and ${spec.dtype} [${spec.shape.join(', ')}]`);
            for (const part of content.late)
              check((parts[part]?.data.byteLength ?? Infinity) <= SMALL, `${name} is made of ${part}, no small part`);
            const only = Object.fromEntries(content.late.map((part) => [part, parts[part]!]));
            const { byteLength: bytes } = content.make(only);
            check(bytes <= byteLength(spec), `${name} has ${bytes} bytes, announced at most ${byteLength(spec)}`);
          }
        }
      }),
      on('writes a config that is JSON, and sentences', async () => {
        check(layout.spec === 1 && layout.name.length > 0, 'spec must be 1, and the name not empty');
        const { linears } = written(layout, sample, model);
        const block = layout.config(linears);
        if (block !== undefined) checkJson('config', block);
        check(JSON.stringify(block) === JSON.stringify(layout.config(linears)), 'two calls give different configs');
        for (const [key, text] of Object.entries(layout.metadata ?? {})) check(typeof text === 'string', `metadata ${key} is no text`);
        const sentences = layout.loadsIn(linears);
        check(sentences.length > 0, 'loadsIn says nothing');
        for (const text of sentences) check(/^\S.*\.$/s.test(text), `loadsIn: ${JSON.stringify(text)} is no sentence`);
      }),
      on('splits every tensor into one file, if it splits at all', async () => {
        const { linears, tensors, config } = written(layout, sample, model);
        const names = Object.keys(tensors);
        const files = layout.files?.({ config, linears, names });
        if (files !== undefined)
          check(files.flat().sort().join() === [...names].sort().join(), 'files does not have every tensor exactly once');
      }),
      on('is detected where it was written, and not in a checkpoint of floats', async () => {
        const { tensors, config } = written(layout, sample, model);
        const entriesOf = (some: Tensors): Entries => memorySource(some).entries;
        check(layout.detect(config, entriesOf(tensors)), 'it does not detect what it has written');
        const floats = { [`${PATHS[0]}.weight`]: seededTensor(6, sample.weight.shape), 'model.norm.weight': seededTensor(5, [16]) };
        check(!layout.detect(model, entriesOf(floats)), 'it detects itself in a checkpoint that is not quantized');
        check(!layout.detect({}, new Map()), 'it detects itself in nothing');
      }),
      on('reads back the same weights, and no others', async () => {
        const { tensors, config } = written(layout, sample, model);
        const weights = await readAll(config, tensors);
        check(
          [...weights.keys()].sort().join() === PATHS.join(),
          `it reads ${[...weights.keys()].join(', ')}, written were ${PATHS.join(', ')}`,
        );
        const expected = numbers(sample.weight);
        for (const [path, weight] of weights) {
          check(weight.shape.join() === sample.weight.shape.join(), `${path} is [${weight.shape.join(', ')}]`);
          checkClose(path, numbers(weight), expected, 0);
        }
        const biased = (await layout.read(config, memorySource(tensors))).get(PATHS[0]!)!;
        check(biased.bias === undefined || biased.bias === `${PATHS[0]}.bias`, `the bias is ${biased.bias}`);
      }),
      on('reads only small tensors to find them', async () => {
        const { tensors, config } = written(layout, sample, model);
        const { source, largest } = watched(tensors);
        await layout.read(config, source);
        const { name, bytes } = largest();
        check(bytes <= SMALL, `it reads ${name} of ${bytes} bytes`);
      }),
      on('says so where a tensor is missing or too short, and never gives another weight', async () => {
        const { tensors, own, config } = written(layout, sample, model);
        const expected = numbers(sample.weight);
        for (const [name, { dtype, data }] of Object.entries(own)) {
          const { [name]: _, ...without } = tensors;
          const short: HostTensor = { dtype, shape: [0], data: data.subarray(0, 0) };
          for (const [what, damaged] of [
            [`without ${name}`, without],
            [`with an empty ${name}`, { ...tensors, [name]: short }],
          ] as const) {
            let weights: ReadonlyMap<string, QuantizedTensor>;
            try {
              weights = await readAll(config, damaged);
            } catch (error) {
              check(isLowbitError(error), `${what} it throws ${error}`);
              continue;
            }
            for (const [path, weight] of weights) checkClose(`${path} ${what}`, numbers(weight), expected, 0);
          }
        }
      }),
    ];
  });
}

/**
 * Registers the conformance cases of a layout, each on every sample.
 *
 * @example
 * layoutConformance(myLayout, [{ name: '4 bits', use: myMethod(), weight: await quantize(tensor, myMethod()) }], { describe, it });
 */
export function layoutConformance(
  layout: CheckpointLayout,
  samples: readonly LayoutSample[],
  runner: TestRunner,
  options: LayoutConformanceOptions = {},
): void {
  registerCases(`layout '${layout.name}'`, layoutCases(layout, samples, options), runner);
}
