// The addon's functions, by hand: a test compares them with what the addon exports. Handles are numbers; one that is not there is an error.

import type { ProgramSpec } from './program.ts';

/** An instruction set with kernels of its own: three of x64, three of arm64, and `scalar`, which runs on every machine. */
export type Isa = 'amx' | 'avx512' | 'avx2' | 'i8mm' | 'dotprod' | 'neon' | 'scalar';

export type Machine = number & { readonly __machine: never };
export type ProgramHandle = number & { readonly __program: never };
export type WeightHandle = number & { readonly __weight: never };

export type StoredFloat = 'f32' | 'f16' | 'bf16';

/** What a codebook has beside its kind of layout. */
export interface CodebookSpec {
  /** Weights of a code; default 1. `pairs8`, `pairs6` and `pairs4` have 2. */
  readonly dim?: 1 | 2;
  /** What products of table and scale are rounded to; default f32. */
  readonly round?: 'f16' | 'bf16';
  /** Rows of x have `features` numbers and are filled up to `inp`, then multiplied by the Hadamard matrix in runs of `block`. */
  readonly rotation?: { readonly block: number; readonly features: number };
}

/** How a weight lies in the backend's memory: see native/dispatch/layout.h. `inp` is the length of its rows as they are stored. */
export type WeightSpec =
  | { readonly kind: 'dense'; readonly out: number; readonly inp: number; readonly dtype: StoredFloat }
  | (CodebookSpec & {
      readonly kind: 'grouped';
      readonly out: number;
      readonly inp: number;
      readonly bits: 1 | 2 | 4 | 8;
      readonly axis: 0 | 1;
      readonly group: number;
      readonly groups: number;
      /** Codes index a table of 2^bits numbers, or pairs of them. */
      readonly table: boolean;
    })
  | (CodebookSpec & {
      readonly kind: 'tiles';
      readonly out: number;
      readonly inp: number;
      readonly codes: 'c8' | 'c4' | 'c3' | 'c2' | 'c1' | 'table4' | 'pairs8' | 'pairs6' | 'pairs4';
      /** Dtype of the scales and zeros of each row and block; none: of each column and class. */
      readonly meta: StoredFloat | 'none';
      readonly zeros: boolean;
      /** Inputs that share a scale. */
      readonly block: number;
      /** Row i is of class i % classes. */
      readonly classes: number;
    })
  | { readonly kind: 'int8'; readonly out: number; readonly inp: number; readonly block: number; readonly threshold: number };

/** Floats of a weight. tiles with numbers inside: scale, zero [out, blocks], unless packWeight brings them; of columns: [classes, inp]; grouped: [groups]; int8: scale [out]. */
export interface WeightNumbers {
  readonly scale?: Float32Array | undefined;
  readonly zero?: Float32Array | undefined;
  readonly table?: Float32Array | undefined;
  readonly bias?: Float32Array | undefined;
}

/** One step, its rows planned: see native/dispatch/program.h. Lists by domain: tokens, outputs, routed, encoder. */
export interface NativeStep {
  readonly tokens: Uint32Array;
  readonly rows: readonly number[];
  readonly planes: 2 | 3;
  readonly shares: readonly {
    readonly id: number;
    readonly start: number;
    readonly length: number;
    readonly remembers: boolean;
    readonly from: readonly number[];
    readonly count: readonly number[];
    readonly wanted: Uint32Array;
  }[];
  /** Rows handed in, by the tensor they make. */
  readonly inputs: readonly { readonly out: number; readonly values: Float32Array }[];
  readonly injections: readonly { readonly out: number; readonly at: Uint32Array; readonly values: Float32Array }[];
}

/** Codes of a file, and numbers that go into tiles as they are: see native/dispatch/repack.h. `bytes` of a dense weight are its numbers. */
export interface StoredWeight {
  readonly order: 'bytes' | 'nibbles' | 'lanes';
  readonly data: Uint8Array;
  readonly wordBytes?: 1 | 4;
  readonly bits?: number;
  readonly lanes?: number;
  /** Elements of a lane. */
  readonly lane?: number;
  /** Codes from there on are refused; default 256. A power of two. */
  readonly entries?: number;
  /** In the dtype of the tiles, one for `repeat` blocks. */
  readonly scale?: Uint8Array;
  readonly zero?: Uint8Array;
  /** Where there is no `zero`. */
  readonly zeroValue?: number;
  readonly repeat?: number;
}

/** A packed weight on disk. */
export interface PackedFile {
  readonly spec: WeightSpec;
  readonly path: string;
  /** 32 bytes. */
  readonly key: Uint8Array;
  readonly bias?: Float32Array | undefined;
}

/** Why a weight does not come from disk. `foreign`: a file of something else; `damaged`: not what was written. */
export type PackedVerdict = 'missing' | 'unreadable' | 'foreign' | 'damaged';

/** The addon, as those see it who bring it: its other functions are called by this package alone. */
export interface CpuAddon {
  /** Version of its functions. */
  readonly abi: number;
  /** What runs on this processor, the best first. */
  isas(): readonly Isa[];
}

export interface CpuBinding extends CpuAddon {
  /** Starts `threads - 1` threads: the caller of `multiply` is one more. */
  openMachine(isa: Isa, threads: number): Machine;
  closeMachine(machine: Machine): void;
  /** Bytes of a weight without bias. Throws for a spec that cannot be. */
  weightBytes(spec: WeightSpec): number;
  /** Takes the memory; numbers are copied. */
  createWeight(spec: WeightSpec, numbers: WeightNumbers): WeightHandle;
  /** Canonical codes of rows [from, from + rows), a byte each. Each row once. */
  putCodes(weight: WeightHandle, from: number, rows: number, codes: Uint8Array): void;
  /** Bytes of a dense weight from byte `at`. */
  putDense(weight: WeightHandle, at: number, bytes: Uint8Array): void;
  /** Off this thread, with the machine's. Whether every code has a place; arrays stay as they are until then. Once for a weight. */
  packWeight(machine: Machine, weight: WeightHandle, stored: StoredWeight): Promise<boolean>;
  /** Writes a weight, without its bias, to a new file, off this thread; it may be freed meanwhile. Rejects with ERR_IO, and then leaves none. */
  saveWeight(weight: WeightHandle, path: string, key: Uint8Array, text: string): Promise<void>;
  /** Off this thread, with the machine's. `mapped` weights stay in their files. */
  loadWeights(machine: Machine, files: readonly PackedFile[], mapped: boolean): Promise<readonly (WeightHandle | PackedVerdict)[]>;
  /** Bytes that V8 has been told of, by this addon in this thread: weights (mapped ones apart), activations, caches. */
  externalBytes(): number;
  /** A second time does nothing. */
  freeWeight(weight: WeightHandle): void;
  /** out [rows, out] = x [rows, features] W^T + bias. Result: columns of x that int8 computed in floating point. */
  multiply(machine: Machine, weight: WeightHandle, planes: 2 | 3, rows: number, x: Float32Array, out: Float32Array): number;
  /** Numbers of rows [from, from + rows) of the weight. */
  fillRows(machine: Machine, weight: WeightHandle, from: number, rows: number, out: Float32Array): void;
  /** `spec` is trusted: it was made of a valid program. Linears stay alive as long as the program does. */
  compileProgram(machine: Machine, spec: ProgramSpec): ProgramHandle;
  /** What a program of such weights would hold: in such a step, after it, and in caches then. The step is planned; nothing runs. */
  measureProgram(
    machine: Machine,
    spec: ProgramSpec<WeightSpec>,
    step: NativeStep,
  ): readonly [scratch: number, kept: number, cache: number];
  /** Runs a step off this thread; one at a time. */
  stepProgram(program: ProgramHandle, step: NativeStep): Promise<void>;
  /** LLM.int8: [products, columns] of every linear of the program since the last call, one after another; empty if none counts. */
  takeOutliers(program: ProgramHandle): Float64Array;
  /** Numbers of a tensor after a step, until the next. */
  readTensor(program: ProgramHandle, tensor: number, out: Uint8Array): void;
  /** The `count` largest numbers of each row of an f32 tensor and their places, as bytes of f32 and i32 [rows, count]. */
  readLargest(program: ProgramHandle, tensor: number, count: number, values: Uint8Array, ids: Uint8Array): void;
  /** Gives back the room of a long step. */
  endStep(program: ProgramHandle): void;
  /** Copies the first `length` tokens. */
  forkSequence(program: ProgramHandle, from: number, to: number, length: number): void;
  closeSequence(program: ProgramHandle, sequence: number): void;
  programBytes(program: ProgramHandle): readonly [scratch: number, cache: number];
  /** While a step runs its memory stays until that has ended. A second time does nothing. */
  freeProgram(program: ProgramHandle): void;
  // Routines of quantizers work off this thread. Until the promise settles nobody else may write to their arrays.
  /** Writes inverse and zero [groups]. */
  hqqMinMax(
    machine: Machine,
    ...rest: [...TileArguments, levels: number, roundZero: boolean, smallRange: boolean, inverse: Float32Array, zero: Float32Array]
  ): Promise<void>;
  /** A step for every beta: writes zeros [steps, groups] and sums [steps, 3], updates settled [groups]. */
  hqqProximalSteps(
    machine: Machine,
    ...rest: [
      ...TileArguments,
      levels: number,
      norm: number,
      betas: Float64Array,
      lastBeta: number,
      inverse: Float32Array,
      zero: Float32Array,
      zeros: Float32Array,
      settled: Uint8Array,
      sums: Float64Array,
    ]
  ): Promise<void>;
  /** Writes scale and zero [groups]. Channels, if errors are weighed by them, with where groups are in the weight: first and last number of each run, by turns. */
  hqqLeastSquares(
    machine: Machine,
    ...rest: [
      ...TileArguments,
      levels: number,
      alternations: number,
      scaleDtype: StoredFloat,
      zeroDtype: StoredFloat,
      channels: Float64Array | undefined,
      axis: 0 | 1,
      columns: number,
      runs: readonly number[],
      scale: Float32Array,
      zero: Float32Array,
    ]
  ): Promise<void>;
  /** Writes words and sums [3]. The grid is scale and zero as stored, and where codes are solved inverse and zero as solved. */
  hqqFinish(
    machine: Machine,
    ...rest: [...TileArguments, levels: number, grid: readonly Float32Array[], packing: TilePacking, words: Uint8Array, sums: Float64Array]
  ): Promise<void>;
  /** Writes coupling [n, n] and cost [n]. */
  feedbackFactor(machine: Machine, matrix: Float32Array, n: number, coupling: Float32Array, cost: Float64Array): Promise<void>;
  /** Of channels [from, from + size) of rows of a weight; writes targets [rows, size]. */
  feedbackTargets(
    machine: Machine,
    ...rest: [...ChannelArguments, weights: Float32Array, errors: Float32Array, coupling: Float32Array, targets: Float32Array]
  ): Promise<void>;
  /** Writes codes and errors [rows, size]. */
  feedbackCodes(
    machine: Machine,
    ...rest: [
      ...ChannelArguments,
      levels: number,
      targets: Float32Array,
      weights: Float32Array,
      scale: Float32Array,
      zero: Float32Array,
      coupling: Float32Array,
      codes: Uint8Array,
      errors: Float32Array,
    ]
  ): Promise<void>;
  /** Changes codes [rows, channels], scale and zero [rows, channels / size]; writes errors [rows, channels]. */
  feedbackDescend(
    machine: Machine,
    ...rest: [
      rows: number,
      channels: number,
      size: number,
      levels: number,
      sweeps: number,
      scaleDtype: StoredFloat,
      zeroDtype: StoredFloat,
      weights: Float32Array,
      moments: Float32Array,
      own: Float32Array,
      codes: Uint8Array,
      scale: Float32Array,
      zero: Float32Array,
      errors: Float32Array,
    ]
  ): Promise<void>;
  /** Writes sums [width, width]. */
  momentsSquares(machine: Machine, x: Float32Array, rows: number, width: number, sums: Float64Array): Promise<void>;
  /** Writes absmax [blocks]. */
  bnbAbsmax(machine: Machine, ...rest: [...RunArguments, absmax: Float32Array]): Promise<void>;
  /** Writes absmax [blocks], packed [ceil(count / 2)] and errors [3, blocks]; where scales are nested, these too. */
  bnbFourBit(
    machine: Machine,
    ...rest: [
      ...RunArguments,
      cuts: Float32Array,
      codes: Uint8Array,
      values: Float32Array,
      nested: NestedArguments | undefined,
      absmax: Float32Array,
      packed: Uint8Array,
      errors: Float64Array,
    ]
  ): Promise<void>;
  /** Writes magnitudes [rows], codes [rows, size] and errors [3, rows]; weights are [rows, size]. */
  bnbInt8(
    machine: Machine,
    ...rest: [...TileArguments, few: boolean, narrow: boolean, magnitudes: Float32Array, codes: Uint8Array, errors: Float64Array]
  ): Promise<void>;
  /** Writes codes [blocks * block / dim], scales [blocks * block / group] and sums [3]; points and stored [size, dim], norms [size]. */
  higgsCode(
    machine: Machine,
    weights: Uint8Array,
    dtype: StoredFloat,
    run: RotatedRun,
    ...rest: [points: Float32Array, norms: Float32Array, stored: Float32Array, codes: Uint8Array, scales: Float32Array, sums: Float64Array]
  ): Promise<void>;
  /** Writes all words of a tile of FLUTE's packing from codes [rows of the tile, columns]. */
  flutePack(
    machine: Machine,
    bits: number,
    dim: number,
    tile: number,
    codes: Uint8Array,
    columns: number,
    words: Uint32Array,
  ): Promise<void>;
}

/** Blocks of a rotated weight, and the grid for them: see native/dispatch/routines-higgs.h. */
export interface RotatedRun {
  readonly inp: number;
  readonly first: number;
  readonly blocks: number;
  readonly block: number;
  readonly group: number;
  /** Dtype of the scales. */
  readonly scale: StoredFloat;
  readonly dim: 1 | 2;
  /** Points of the grid. */
  readonly size: number;
}

/** Weights [count] as bytes, in blocks of `size`; `divides`: the last one, if it is short. */
export type RunArguments = [weights: Uint8Array, dtype: StoredFloat, count: number, size: number, divides: boolean];

/** Double quantization of a run's magnitudes: see native/dispatch/routines-bnb.h. `codes` and `scale` [blocks of the run] are written. */
export interface NestedArguments {
  readonly first: number;
  readonly blocks: number;
  readonly offset: number;
  readonly magnitudes: Float32Array;
  readonly map: Float32Array;
  readonly bounds: Float32Array;
  readonly codes: Uint8Array;
  readonly scale: Float32Array;
}

/** Weights of a tile [groups, size], as bytes. */
export type TileArguments = [weights: Uint8Array, dtype: StoredFloat, groups: number, size: number];
/** Channels [from, from + size) of rows of a weight. */
export type ChannelArguments = [rows: number, channels: number, from: number, size: number];

/** Where the codes of a tile go: see native/dispatch/routines-hqq.h. */
export interface TilePacking {
  readonly bits: number;
  readonly lanes: number;
  readonly wordBytes: 1 | 4;
  readonly axis: 0 | 1;
  readonly wordRows: number;
  readonly extent: number;
  readonly laneGroups: readonly number[];
}

/** Version of the functions that this package calls. */
export const BINDING_ABI = 7;

/** Names of all functions, for the test and for a check of what is loaded. */
export const BINDING_FUNCTIONS = [
  'isas',
  'openMachine',
  'closeMachine',
  'weightBytes',
  'createWeight',
  'putCodes',
  'putDense',
  'packWeight',
  'saveWeight',
  'loadWeights',
  'externalBytes',
  'freeWeight',
  'multiply',
  'fillRows',
  'compileProgram',
  'measureProgram',
  'stepProgram',
  'takeOutliers',
  'readTensor',
  'readLargest',
  'endStep',
  'forkSequence',
  'closeSequence',
  'programBytes',
  'freeProgram',
  'hqqMinMax',
  'hqqProximalSteps',
  'hqqLeastSquares',
  'hqqFinish',
  'feedbackFactor',
  'feedbackTargets',
  'feedbackCodes',
  'feedbackDescend',
  'momentsSquares',
  'bnbAbsmax',
  'bnbFourBit',
  'bnbInt8',
  'higgsCode',
  'flutePack',
] as const satisfies readonly Exclude<keyof CpuBinding, 'abi'>[];
