// Loads a program onto one backend, or onto several across a cut, and runs it there.

import type {
  Backend,
  CallOptions,
  CompileOptions,
  DeviceMap,
  Format,
  HostTensor,
  LinearRequest,
  LinearUse,
  Program,
  QuantizedLinear,
  QuantizedTensor,
  Routine,
  Runtime,
  SequenceId,
  StepOptions,
  StepOutputs,
  StepSequence,
  WeightOrigin,
} from '@lowbit/core';
import { answerOf, isLowbitError, isPlainRecord, LowbitError, missingOps, refusal, validateProgram } from '@lowbit/core';
import { cutProgram, type PlacedPiece, type ProgramPiece } from './cut.ts';
import { cutByDeviceMap, cutByRoom, type Room } from './placement.ts';
import { type Place, SplitProgram } from './split.ts';

/** Reads weight `index` of the program. Without `bias` the constant that the program names is taken. */
export type LoadWeight = (
  use: LinearUse,
  index: number,
) => Promise<{ readonly weight: QuantizedTensor; readonly bias?: HostTensor | undefined }>;

export interface LoadOptions extends CallOptions, CompileOptions {
  /** Backends by name and how many layers each runs, in order. Default: all layers on the first backend that supports them. */
  readonly cut?: readonly { readonly backend: string; readonly layers: number }[] | undefined;
  /**
   * In place of `cut`: backends by module, tag or pattern, also within layers; or `auto`, which needs `formats` and fills the backends in order, layer
   * by layer, as far as their memory goes.
   */
  readonly deviceMap?: 'auto' | DeviceMap | undefined;
  /** With `auto`: bytes of weights that backends may hold, by name. Default what a backend says its device has. */
  readonly backendMemory?: Readonly<Record<string, number>> | undefined;
  /**
   * Formats of the weights, if known before they are read: the backend is then chosen first. Otherwise loading starts again on the
   * next backend at the first weight that the one chosen does not support.
   */
  readonly formats?: readonly Format[] | undefined;
  /** With `formats`: what a backend has kept comes back without `loadWeight`, with the program's bias. */
  readonly origins?: readonly (WeightOrigin | undefined)[] | undefined;
  /** Keep scales, zeros and tables of all weights in host memory; see `LinearRequest`. Default false. */
  readonly offloadMeta?: boolean | undefined;
}

/** What programs are loaded on: a runtime, or what is around one and loads in a way of its own, to tell what became of each, say. */
export interface ProgramRuntime extends Pick<Runtime, 'allowDequant' | 'backend' | 'backends' | 'select'> {
  load?(program: Program, loadWeight: LoadWeight, options: LoadOptions): Promise<LoadedProgram>;
  /** A backend's version of a named routine, if it has one. */
  routine?(name: string): Routine | undefined;
}

/** What one piece of a loaded program holds. */
export interface Placed {
  readonly backend: string;
  /** Paths of its linears. */
  readonly linears: readonly string[];
  /** Device bytes of those; pieces on one backend share a table they both use. */
  readonly bytes: number;
}

/** A program with its weights in place. Everything an `Executable` does, across the cut; owns its linears. */
export interface LoadedProgram extends AsyncDisposable {
  readonly program: Program;
  /** Name of the backend of each piece. */
  readonly backends: readonly string[];
  /** Who runs what, in order. A tied table may be with two backends. */
  readonly placement: readonly Placed[];
  /** By index in the program. */
  readonly linears: readonly QuantizedLinear[];
  /** Name of the backend that weight `index` multiplies on. Throws ERR_BAD_ARGUMENT for one that multiplies nothing. */
  backendOf(index: number): string;
  open(): SequenceId;
  fork(id: SequenceId, length?: number): SequenceId;
  length(id: SequenceId): number;
  truncate(id: SequenceId, length: number): void;
  close(id: SequenceId): void;
  step(batch: readonly StepSequence[], options?: StepOptions): Promise<StepOutputs>;
  /** Device bytes of weights, activations, and keys and values held now. */
  memory(): { readonly weights: number; readonly scratch: number; readonly cache: number };
  /**
   * From now on weight `index` is `linear`, prepared by the backend of the old one (the same weight in another format, say), which the program owns
   * from then on; gives back the old one, which the caller owns. Compiles again: ERR_BAD_ARGUMENT while sequences are open. An adapter (LoRA) is no
   * replacement but a rewrite of the program before it is loaded: see `Backend.compile`.
   */
  replace(index: number, linear: QuantizedLinear): Promise<QuantizedLinear>;
}

/**
 * Prepares the weights of a program one by one on the backends of a runtime and compiles it there. An abort or error releases everything.
 * @throws ERR_BAD_ARGUMENT (a program that breaks its rules, options that contradict each other), ERR_LIMIT (`auto` finds no room), ERR_TENSOR_MISMATCH, and
 * what `Runtime.select` and backends throw
 */
export async function loadProgram(
  runtime: ProgramRuntime,
  program: Program,
  loadWeight: LoadWeight,
  options: LoadOptions,
): Promise<LoadedProgram> {
  if (runtime.load) return runtime.load(program, loadWeight, options);
  validateProgram(program);
  const placed = await cutPieces(runtime, program, options);
  if (placed) {
    const places: Place[] = [];
    for (const { piece, place } of placed) places.push({ piece, backend: await runtime.backend(place) });
    checkFormats(places, options, runtime);
    return loadPlaces(program, places, loadWeight, options, runtime);
  }
  const whole = wholePiece(program);
  const { offloadMeta = false } = options;
  const known: LinearRequest[] = (options.formats ?? []).map((format, i) => {
    const { shape, use } = program.linears[i]!;
    return { format, shape, use, offloadMeta };
  });
  for (;;) {
    const backend = await runtime.select(known, program);
    try {
      return await loadPlaces(program, [{ piece: whole, backend }], loadWeight, options, runtime);
    } catch (error) {
      if (!(error instanceof Unsupported)) throw error;
      known.push(error.request);
    }
  }
}

/** The pieces of a program that is to run in several places; undefined for one that is not. */
async function cutPieces(
  runtime: ProgramRuntime,
  program: Program,
  options: LoadOptions,
): Promise<readonly PlacedPiece<string>[] | undefined> {
  const { cut, deviceMap, backendMemory, formats, offloadMeta = false } = options;
  if (cut && deviceMap) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'cut and deviceMap both say where layers run', { hint: 'Pass one of them.' });
  }
  if (backendMemory && deviceMap !== 'auto') {
    throw new LowbitError('ERR_BAD_ARGUMENT', "backendMemory is for deviceMap: 'auto' alone", {
      hint: 'Leave it out, or let auto place the layers.',
    });
  }
  if (cut) {
    const pieces = cutProgram(
      program,
      cut.map(({ layers }) => layers),
    );
    return pieces.map((piece, i) => ({ piece, place: cut[i]!.backend }));
  }
  if (deviceMap === undefined) return undefined;
  if (deviceMap !== 'auto') return cutByDeviceMap(program, checkedMap(deviceMap));
  if (formats?.length !== program.linears.length) {
    throw new LowbitError('ERR_BAD_ARGUMENT', "deviceMap: 'auto' needs the formats of all weights before they are read", {
      hint: 'Pass formats, or place the layers by name.',
    });
  }
  const unknown = Object.keys(backendMemory ?? {}).find((name) => !runtime.backends.includes(name));
  if (unknown !== undefined) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `backendMemory names a backend '${unknown}' that there is not`, {
      hint: `Backends of this runtime: ${runtime.backends.join(', ')}.`,
    });
  }
  for (const [name, bytes] of Object.entries(backendMemory ?? {})) {
    if (typeof bytes === 'number' && bytes >= 0) continue;
    throw new LowbitError(
      'ERR_BAD_ARGUMENT',
      `backendMemory of ${name} is ${JSON.stringify(bytes) ?? String(bytes)}, expected a number of bytes`,
      {
        hint: 'Write 4e9 for 4 GB.',
        details: { backend: name, backendMemory: bytes },
      },
    );
  }
  const rooms: Room[] = [];
  for (const name of runtime.backends) {
    const backend = await runtime.backend(name).catch((error: unknown) => {
      if (isLowbitError(error, 'ERR_BACKEND_UNAVAILABLE') && backendMemory?.[name] === undefined) return undefined;
      throw error;
    });
    if (backend) rooms.push({ backend, bytes: backendMemory?.[name] ?? backend.device.memory });
  }
  return cutByRoom(program, formats, rooms, { allowDequant: runtime.allowDequant, offloadMeta });
}

/** Throws ERR_BAD_ARGUMENT for what is no record of backend names. */
function checkedMap(map: DeviceMap): DeviceMap {
  if (isPlainRecord(map) && Object.values(map).every((name) => typeof name === 'string')) return map;
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `a device map is 'auto' or a record of backend names, got ${JSON.stringify(map) ?? String(map)}`,
    {
      hint: "Such as { '': 'cuda', lm_head: 'cpu' }.",
    },
  );
}

/** Thrown inside `loadProgram` alone: the backend chosen does not take this linear. */
class Unsupported extends LowbitError {
  readonly request: LinearRequest;
  constructor(path: string, backend: string, request: LinearRequest, reason: string) {
    super('ERR_UNSUPPORTED_FORMAT', `backend '${backend}' does not take ${path}: ${reason}`, {
      hint: 'Choose another backend for these layers, or pass allowDequant.',
      details: { path, backend, request },
    });
    this.request = request;
  }
}

function wholePiece(program: Program): ProgramPiece {
  return { program, linears: [...program.linears.keys()], caches: [...program.caches.keys()], takes: [], gives: [] };
}

/** What `backend` is asked to do with linear `index`: by all its pieces together. */
function useOn(backend: Backend, index: number, places: readonly Place[]): LinearUse['use'] | undefined {
  const uses = new Set<LinearUse['use']>();
  for (const { piece, backend: own } of places) {
    const at = own === backend ? piece.linears.indexOf(index) : -1;
    if (at >= 0) uses.add(piece.program.linears[at]!.use);
  }
  return uses.size > 1 ? 'both' : [...uses][0];
}

function checkSupport(backend: Backend, path: string, request: LinearRequest, { allowDequant }: Pick<Runtime, 'allowDequant'>): void {
  const reason = refusal(answerOf(backend, request, { allowDequant }));
  if (reason !== undefined) throw new Unsupported(path, backend.name, request, reason);
}

/** Of a cut, before anything is read: operations, and formats as far as they are known. */
function checkFormats(places: readonly Place[], { formats, offloadMeta = false }: LoadOptions, runtime: ProgramRuntime): void {
  for (const { piece, backend } of places) {
    const missing = missingOps(backend, piece.program);
    if (missing.length > 0) {
      throw new LowbitError('ERR_BACKEND_UNAVAILABLE', `backend '${backend.name}' does not run ${missing.join(', ')}`, {
        hint: 'Choose another backend for these layers.',
        details: { backend: backend.name, missing },
      });
    }
    if (!formats) continue;
    for (const [at, index] of piece.linears.entries()) {
      const { path, shape, use } = piece.program.linears[at]!;
      checkSupport(backend, path, { format: formats[index]!, shape, use, offloadMeta }, runtime);
    }
  }
}

/** Prepares the weights one by one and compiles the pieces. Releases everything if anything fails. */
async function loadPlaces(
  program: Program,
  places: readonly Place[],
  loadWeight: LoadWeight,
  options: LoadOptions,
  runtime: ProgramRuntime,
): Promise<LoadedProgram> {
  const { signal, onProgress, offloadMeta = false, formats, origins } = options;
  const backends = [...new Set(places.map(({ backend }) => backend))];
  const prepared = new Map<Backend, QuantizedLinear[]>(backends.map((backend) => [backend, []]));
  const release = (): void => {
    for (const linears of prepared.values()) for (const linear of Object.values(linears)) linear[Symbol.dispose]();
  };
  const biasOf = (index: number, use: LinearUse['use']): HostTensor | undefined =>
    use === 'embedding' ? undefined : program.constants[program.linears[index]!.bias ?? -1];
  try {
    for (const backend of backends) {
      const kept = program.linears.flatMap(({ shape }, index) => {
        const use = useOn(backend, index, places);
        const [format, origin] = [formats?.[index], origins?.[index]];
        return use && format && origin ? [{ index, format, shape, use, offloadMeta, origin, bias: biasOf(index, use) }] : [];
      });
      const found = kept.length > 0 ? await backend.recall?.(kept, { signal }) : undefined;
      for (const [i, { index }] of kept.entries()) {
        const linear = found?.[i];
        if (linear) prepared.get(backend)![index] = linear;
      }
    }
    for (const [index, use] of program.linears.entries()) {
      signal?.throwIfAborted();
      const needy = backends.filter((backend) => !prepared.get(backend)![index] && useOn(backend, index, places));
      if (needy.length > 0) {
        const { weight, bias } = await loadWeight(use, index);
        signal?.throwIfAborted();
        checkShape(use, weight);
        for (const backend of needy) {
          const as = useOn(backend, index, places)!;
          checkSupport(backend, use.path, { format: weight.format, shape: use.shape, use: as, offloadMeta }, runtime);
          const own = as === 'embedding' ? undefined : (bias ?? biasOf(index, as));
          prepared.get(backend)![index] = await backend.prepare(weight, {
            use: as,
            bias: own,
            offloadMeta,
            origin: origins?.[index],
            signal,
          });
        }
      }
      onProgress?.({ phase: 'load', done: index + 1, total: program.linears.length, unit: 'tensors', item: use.path });
    }
    signal?.throwIfAborted();
    return await SplitProgram.compile(program, places, prepared, options);
  } catch (error) {
    release();
    throw error;
  }
}

function checkShape(use: LinearUse, weight: QuantizedTensor): void {
  if (weight.shape[0] === use.shape[0] && weight.shape[1] === use.shape[1]) return;
  throw new LowbitError(
    'ERR_TENSOR_MISMATCH',
    `${use.path}.weight is [${weight.shape.join(', ')}], the model needs [${use.shape.join(', ')}]`,
    {
      details: { path: use.path, expected: use.shape, actual: weight.shape },
    },
  );
}
