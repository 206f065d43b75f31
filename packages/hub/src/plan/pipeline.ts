// Carrying out a plan: weights stream from the source through quantizers into the sink, within a byte budget.
//
// A unit of work is one linear, quantized or stored anew, or one copied tensor. Units write to places fixed by the plan, so neither their order nor their number at a time
// changes a byte of the result; a unit committed by an interrupted run is not done again.

import type {
  CallOptions,
  HostTensor,
  Json,
  PartWriter,
  QuantizedSite,
  Routine,
  TensorSink,
  TensorSource,
  TensorSpec,
  WeightError,
  WeightReader,
} from '@lowbit/core';
import {
  assertFinite,
  byteLength,
  castFloat,
  DTYPE_BYTES,
  elementCount,
  firstNonFinite,
  LowbitError,
  memoryReader,
  memoryWriter,
  poolFor,
  readFloat32,
  siteTensor,
  toFloat32,
  transpose,
  type Workers,
  withWorkers,
} from '@lowbit/core';
import { isLate, type LateImportance } from './late-importance.ts';
import type { CheckpointPlan, LinearWork, PlannedTensor, TensorOrigin } from './plan-tensors.ts';
import { recodedBytes, recodeLinear } from './recode.ts';

export interface ExecuteOptions extends CallOptions {
  /** Bytes of weights and results in flight; default 192 MiB. Each unit in flight needs 32 MiB. */
  readonly maxMemory?: number | undefined;
  /** Units in flight at a time, which share the budget; default 1. Fewer where a weight that is turned needs more of it. */
  readonly concurrency?: number | undefined;
  /** Threads to use where methods can, or those of `createWorkers`; default 1, the one that calls. The bytes are the same. */
  readonly threads?: number | Workers | undefined;
  readonly runtime?: { routine(name: string): Routine | undefined } | undefined;
  /** Copy NaN and infinity in tensors that are not quantized; default false: ERR_NON_FINITE. Of weights their quantizer decides. */
  readonly allowNonFinite?: boolean | undefined;
}

/** What became of one linear. */
export interface LinearReport extends WeightError {
  readonly path: string;
  readonly ms: number;
  /** Finished by an earlier, interrupted run. */
  readonly resumed: boolean;
}

/** What `executePlan` gives. */
export interface ExecuteReport {
  readonly linears: readonly LinearReport[];
  /** Sum of squared errors over sum of squared weights, all quantized linears together. */
  readonly weightError: number;
  readonly ms: number;
  /** Tensors copied, and units found done by an earlier run. */
  readonly copied: number;
  readonly resumed: number;
}

/** Default of `maxMemory`. */
export const DEFAULT_MAX_MEMORY = 192 << 20;
const MIN_MEMORY = 32 << 20;
const COPY_CHUNK = 8 << 20;
/** Bytes of the budget to a byte of a weight that is turned: it and a copy are half of it. */
const TURNING = 4;

interface Unit {
  readonly name: string;
  readonly bytes: number;
  /** `advance` is told of bytes of the source that are finished before the unit is. */
  run(advance: (bytes: number) => void): Promise<Json>;
}

/**
 * Fills the sink with the tensors of the plan. The caller reserves before and closes after.
 * @throws ERR_BAD_ARGUMENT (budget, threads), ERR_WORKER, ERR_NON_FINITE, ERR_DTYPE_OVERFLOW, and what source, sink and quantizers throw; abort throws the signal's reason
 */
export async function executePlan(
  plan: CheckpointPlan,
  source: TensorSource,
  sink: TensorSink,
  options: ExecuteOptions = {},
): Promise<ExecuteReport> {
  const { maxMemory = DEFAULT_MAX_MEMORY, concurrency = 1 } = options;
  if (!Number.isInteger(concurrency) || concurrency < 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `concurrency cannot be ${concurrency}`, { hint: 'Give a positive integer.' });
  }
  if (!(maxMemory >= MIN_MEMORY * concurrency)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `maxMemory of ${maxMemory} bytes is too small for ${concurrency} at a time`, {
      hint: `Give at least ${MIN_MEMORY * concurrency} bytes: 32 MiB for each linear at a time.`,
      details: { maxMemory, concurrency },
    });
  }
  return withWorkers(options.threads ?? 1, (workers) => executeUnits(plan, source, sink, { ...options, maxMemory, concurrency }, workers));
}

/** How a plan is carried out, with every default filled in but those that may be absent. */
interface UnitOptions extends Omit<ExecuteOptions, 'threads'> {
  readonly maxMemory: number;
  readonly concurrency: number;
}

async function executeUnits(
  plan: CheckpointPlan,
  source: TensorSource,
  sink: TensorSink,
  options: UnitOptions,
  workers: Workers | undefined,
): Promise<ExecuteReport> {
  const { maxMemory, signal, onProgress } = options;
  const concurrency = Math.max(1, Math.min(options.concurrency, Math.floor(maxMemory / turnedBytes(plan, source))));
  const started = performance.now();
  const budget = Math.floor(maxMemory / concurrency);
  const reports = new Map<string, LinearReport>();
  const units = planUnits(plan, source, sink, budget, options, workers, reports);
  const total = units.reduce((sum, unit) => sum + unit.bytes, 0);
  const phase = [...plan.work.values()].some(({ kind }) => kind === 'recode') ? 'convert' : 'quantize';
  let done = 0;
  let resumed = 0;
  const advance = (item: string, bytes: number) => {
    done += bytes;
    onProgress?.({ phase, done, total, unit: 'bytes', item });
  };

  const waiting: Unit[] = [];
  for (const unit of units) {
    const note = sink.done.get(unit.name);
    if (note === undefined) waiting.push(unit);
    else {
      resumed++;
      if (isErrorNote(note)) reports.set(unit.name, { ...note, path: unit.name, resumed: true });
      advance(unit.name, unit.bytes);
    }
  }
  const lane = async (): Promise<void> => {
    for (let unit = waiting.shift(); unit; unit = waiting.shift()) {
      signal?.throwIfAborted();
      try {
        let early = 0;
        const { name, bytes } = unit;
        const note = await unit.run((finished) => {
          const counted = Math.min(finished, bytes - early);
          early += counted;
          if (early < bytes) advance(name, counted);
          else early -= counted; // the last bytes count when they are committed
        });
        await sink.commit(name, note);
        advance(name, bytes - early);
      } catch (error) {
        waiting.length = 0; // the other lanes finish what they are at
        throw error;
      }
    }
  };
  for (const [late, paths] of latePaths(plan, waiting)) late.begin(paths);
  const outcomes = await Promise.allSettled(Array.from({ length: Math.min(concurrency, waiting.length) }, lane));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;

  const linears = plan.linears.flatMap(({ site }) => reports.get(site.path) ?? []);
  const squaredWeight = linears.reduce((sum, report) => sum + report.squaredWeight, 0);
  const squaredError = linears.reduce((sum, report) => sum + report.squaredError, 0);
  return {
    linears,
    weightError: squaredWeight > 0 ? squaredError / squaredWeight : 0,
    ms: performance.now() - started,
    copied: units.length - plan.linears.filter((linear) => linear.format).length,
    resumed,
  };
}

/** Linears among the units that are to be done whose importance is found meanwhile. */
function latePaths({ work }: CheckpointPlan, units: readonly Unit[]): ReadonlyMap<LateImportance, readonly string[]> {
  const paths = new Map<LateImportance, string[]>();
  for (const { name } of units) {
    const of = work.get(name);
    if (of?.kind !== 'quantize' || !isLate(of.importance)) continue;
    const own = paths.get(of.importance);
    if (own) own.push(name);
    else paths.set(of.importance, [name]);
  }
  return paths;
}

/** What the largest weight that is turned in memory needs; 0 where none is. */
function turnedBytes(plan: CheckpointPlan, source: TensorSource): number {
  const turned = plan.linears.filter(({ site, format }) => format && site.transposed && plan.work.get(site.path)?.kind === 'quantize');
  return Math.max(0, ...turned.map(({ site }) => TURNING * byteLength(source.entries.get(siteTensor(site).name)!)));
}

function planUnits(
  plan: CheckpointPlan,
  source: TensorSource,
  sink: TensorSink,
  budget: number,
  options: UnitOptions,
  workers: Workers | undefined,
  reports: Map<string, LinearReport>,
): Unit[] {
  const ofLinear = new Map<string, [string, PlannedTensor][]>();
  const units: Unit[] = [];
  for (const [name, tensor] of plan.tensors) {
    if (tensor.origin.kind === 'copy') {
      const { from } = tensor.origin;
      units.push({
        name,
        bytes: byteLength({ dtype: source.entries.get(from)!.dtype, shape: tensor.spec.shape }),
        run: (advance) => copyTensor(source, tensor.origin as CopyOrigin, sink, name, tensor, budget, options, advance),
      });
    } else {
      const { path } = tensor.origin;
      if (!ofLinear.has(path)) ofLinear.set(path, []);
      ofLinear.get(path)!.push([name, tensor]);
    }
  }
  for (const linear of plan.linears) {
    if (!linear.format) continue;
    const { path } = linear.site;
    const outputs = ofLinear.get(path)!;
    const work = plan.work.get(path)!;
    if (work.kind === 'recode') {
      const { stored } = work;
      units.push({
        name: path,
        bytes: recodedBytes(source, stored),
        run: async (advance) => {
          const settings = { path, budget, signal: options.signal, onBytes: advance };
          await writeLinear(outputs, sink, (writer) => recodeLinear(source, stored, linear.format, writer, settings));
          return null;
        },
      });
      continue;
    }
    units.push({
      name: path,
      bytes: byteLength({ dtype: source.entries.get(siteTensor(linear.site).name)!.dtype, shape: linear.site.shape }),
      run: async (advance) => {
        const begun = performance.now();
        const error = await writeLinear(outputs, sink, (writer) =>
          quantizeLinear(linear, work, source, writer, budget, options, workers, advance),
        );
        const note = { ...error, ms: Math.round(performance.now() - begun) };
        reports.set(path, { ...note, path, resumed: false });
        return note;
      },
    });
  }
  return units;
}

/** Passes the parts that `make` writes on to the tensors of a linear, and writes those of its tensors that are no parts. */
async function writeLinear<T>(
  outputs: readonly [string, PlannedTensor][],
  sink: TensorSink,
  make: (writer: PartWriter) => Promise<T>,
): Promise<T> {
  // A tensor may see the bytes of a part as another dtype; a position in elements of the one is then another in elements of the other.
  const target = new Map<string, { readonly name: string; readonly step: number }>();
  const forLate: Record<string, TensorSpec> = {};
  for (const [name, { origin, spec }] of outputs) {
    if (origin.kind === 'part') target.set(origin.part, { name, step: DTYPE_BYTES[origin.spec.dtype] / DTYPE_BYTES[spec.dtype] });
    else if (origin.kind === 'constant') await sink.write(name, 0, origin.data);
    else if (origin.kind === 'late') Object.assign(forLate, origin.parts);
  }
  const kept = memoryWriter(forLate);
  const result = await make({
    async write(part, at, data) {
      const to = target.get(part);
      if (Object.hasOwn(forLate, part) || to === undefined) await kept.writer.write(part, at, data);
      if (to !== undefined) await sink.write(to.name, at * to.step, data);
    },
  });
  for (const [name, { origin }] of outputs) {
    if (origin.kind === 'late') await sink.write(name, 0, origin.make(kept.parts));
  }
  return result;
}

async function quantizeLinear(
  { site, format }: QuantizedSite,
  { quantizer, importance }: LinearWork & { readonly kind: 'quantize' },
  source: TensorSource,
  writer: PartWriter,
  budget: number,
  { signal, runtime }: UnitOptions,
  workers: Workers | undefined,
  advance: (bytes: number) => void,
): Promise<WeightError> {
  const { shape, transposed } = site;
  const { name, from: first } = siteTensor(site);
  const moments = isLate(importance) ? await importance.of(site.path, { signal }) : importance;
  const held = transposed ? await transposedReader(source, name, budget, signal) : undefined;
  const reader = held?.reader ?? sourceReader(source, name, shape, { signal, first });
  return quantizer.quantize(reader, format, writer, {
    budget: budget - (held?.bytes ?? 0),
    signal,
    routine: runtime && ((name) => runtime.routine(name)),
    importance: moments,
    workers: poolFor(quantizer, workers),
    onWeights: (count) => advance(count * DTYPE_BYTES[reader.dtype]),
  });
}

/**
 * Reads a weight of a source piece by piece, widened to f32 and, unless asked not to, checked for NaN and infinity. It begins at flat element `first` of the
 * tensor, by default 0.
 */
function sourceReader(
  source: TensorSource,
  name: string,
  shape: readonly [number, number],
  { signal, first = 0 }: { readonly signal?: AbortSignal | undefined; readonly first?: number } = {},
): WeightReader {
  const { dtype } = source.entries.get(name)!;
  return {
    name,
    shape,
    dtype,
    async read(from, to, into, at = 0, nonFinite = 'refuse') {
      const piece = await source.read(name, { range: [first + from, first + to], signal });
      readFloat32(dtype, piece.data, into, at);
      if (nonFinite !== 'keep') assertFinite(name, into, at, at + to - from, first + from);
    },
    readStored: async (from, to) => (await source.read(name, { range: [first + from, first + to], signal })).data,
  };
}

/**
 * Reads a weight that is stored as [in, out] as [out, in]. It is turned in memory: strides of a file are slow, and models with such weights are small.
 * Throws ERR_LIMIT if it takes more than half of the budget to do so.
 */
async function transposedReader(
  source: TensorSource,
  name: string,
  budget: number,
  signal: AbortSignal | undefined,
): Promise<{ readonly reader: WeightReader; readonly bytes: number }> {
  const bytes = byteLength(source.entries.get(name)!);
  if (TURNING * bytes > budget) {
    throw new LowbitError(
      'ERR_LIMIT',
      `${name} is stored as [in, out]; turning its ${bytes} bytes takes more than half of the ${budget} allowed`,
      {
        hint: `Allow at least ${TURNING * bytes} bytes (maxMemory, for each linear at a time), or keep this linear with a rule.`,
        details: { tensor: name, bytes, budget },
      },
    );
  }
  return { reader: memoryReader(name, transpose(await source.read(name, { signal }))), bytes };
}

type CopyOrigin = TensorOrigin & { readonly kind: 'copy' };

async function copyTensor(
  source: TensorSource,
  { from, first = 0 }: CopyOrigin,
  sink: TensorSink,
  name: string,
  tensor: PlannedTensor,
  budget: number,
  { signal, allowNonFinite = false }: UnitOptions,
  advance: (bytes: number) => void,
): Promise<Json> {
  const { dtype } = source.entries.get(from)!;
  const count = elementCount(tensor.spec.shape);
  const step = Math.max(1, Math.floor(Math.min(COPY_CHUNK, budget / 4) / DTYPE_BYTES[dtype]));
  for (let at = 0; at < count; at += step) {
    signal?.throwIfAborted();
    const piece = await source.read(from, { range: [first + at, first + Math.min(at + step, count)], signal });
    const broken = allowNonFinite ? -1 : firstNonFinite(piece);
    if (broken >= 0) assertFinite(from, toFloat32(piece), broken, broken + 1, first + at + broken);
    const cast = castChecked(piece, tensor.spec.dtype, name, at);
    await sink.write(name, at, cast.data);
    advance(piece.data.byteLength);
  }
  return null;
}

/** Casts floats, and refuses to make infinities of finite ones. */
function castChecked(piece: HostTensor, dtype: HostTensor['dtype'], name: string, first: number): HostTensor {
  if (dtype === piece.dtype) return piece;
  const cast = castFloat(piece, dtype);
  if (firstNonFinite(cast) < 0) return cast;
  const width = DTYPE_BYTES[piece.dtype];
  const wasFinite = (i: number) => firstNonFinite({ dtype: piece.dtype, data: piece.data.subarray(i * width, (i + 1) * width) }) < 0;
  const overflow = toFloat32(cast).findIndex((value, i) => !Number.isFinite(value) && wasFinite(i));
  if (overflow < 0) return cast;
  throw new LowbitError('ERR_DTYPE_OVERFLOW', `${name}: element ${first + overflow} of the source is too large for ${dtype}`, {
    hint: 'Choose a dtype with a wider range: bf16 or f32.',
    details: { tensor: name, index: first + overflow, from: piece.dtype, to: dtype },
  });
}

function isErrorNote(note: Json): note is { squaredError: number; squaredWeight: number; maxAbs: number; nonFinite?: number; ms: number } {
  return typeof note === 'object' && note !== null && 'squaredError' in note;
}
