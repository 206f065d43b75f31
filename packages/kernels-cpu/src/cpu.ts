// The provider: options checked, the addon found when a backend is probed or opened, not when this module is imported.

import { whyNot } from '@lowbit/addon';
import { availableThreads, type BackendProvider, checkOptionNames, type FormatCodec, LowbitError } from '@lowbit/core';
import { CpuBackend } from './backend.ts';
import type { CpuAddon, CpuBinding, Isa, StoredFloat } from './binding.ts';
import { type CacheOptions, cacheSettings, chosenCache } from './cache/settings.node.ts';
import { hostFacts, warnOnce } from './host.node.ts';
import { addon } from './load.node.ts';

/** The cache as a backend uses it. */
export interface CpuCacheOptions extends CacheOptions {
  /** `map` (default): weights stay in the files, shared by all processes that run the model. `read`: into memory of this process. See docs/native-cpu.md. */
  readonly how?: 'read' | 'map';
  /** Told why weights are not kept, or not brought back; loading goes on without. Default: `process.emitWarning`, once for each kind. */
  readonly onProblem?: (problem: LowbitError) => void;
}

/** Of `cpu`. */
export interface CpuOptions {
  /** Threads of each backend that is opened; default all that the machine offers. Results do not depend on it. */
  readonly threads?: number;
  /** `auto` (default): the best that this processor runs. Another one is for tests and comparisons. */
  readonly isa?: Isa | 'auto';
  /**
   * How activations go into integer products. `exact` (default): 24 bits of the largest in each block. `fast`: 16, for codebooks 14. Bounds:
   * docs/native-cpu.md. Dense weights and LLM.int8 are computed alike in both; HIGGS by the codec's rounded weights in f32 (`exact`), or
   * without that rounding (`fast`).
   */
  readonly precision?: 'exact' | 'fast';
  /** In which dtype keys and values of sequences are kept; default `f32`. The others halve their memory and round each number. */
  readonly kvDtype?: StoredFloat;
  /** The addon, or a path to it, for bundlers and Electron. Default: see the README. */
  readonly binding?: CpuAddon | string;
  /**
   * Packed weights of quantized checkpoints are kept on disk and brought back when the same files are loaded again. Default: on, unless the variable
   * LOWBIT_CACHE is `off`; docs/native-cpu.md has the place and the size. `false`: neither read nor written.
   */
  readonly cache?: false | CpuCacheOptions;
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
  /** Default `cpu`; another name tells two of them apart across a cut. */
  readonly name?: string;
}

const ISAS: readonly string[] = ['auto', 'amx', 'avx512', 'avx2', 'i8mm', 'dotprod', 'neon', 'scalar'] satisfies readonly (Isa | 'auto')[];

function badOption(option: string, value: unknown, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `cpu: ${option} cannot be ${String(value)}`, { hint, details: { option, value } });
}

/** Throws ERR_BACKEND_UNAVAILABLE for an instruction set that this processor lacks. */
function chosenIsa(binding: CpuBinding, wanted: Isa | 'auto'): Isa {
  const usable = binding.isas();
  if (wanted === 'auto') return usable[0]!;
  if (usable.includes(wanted)) return wanted;
  throw new LowbitError('ERR_BACKEND_UNAVAILABLE', `cpu: this processor (${hostFacts().processor}) does not run ${wanted}`, {
    hint: `Leave isa out, or choose one of ${usable.join(', ')}.`,
    details: { isa: wanted, usable },
  });
}

/**
 * The native CPU backend. Nothing is loaded until it is probed or opened. Throws ERR_BAD_ARGUMENT for an option that cannot be; `open` rejects with
 * ERR_BACKEND_UNAVAILABLE where the addon is missing or the processor lacks the instruction set.
 *
 * @example
 * const runtime = await createRuntime({ backends: [cpu(), referenceBackend()] });
 */
export function cpu(options: CpuOptions = {}): BackendProvider {
  checkOptionNames('cpu', options, ['threads', 'isa', 'precision', 'kvDtype', 'binding', 'cache', 'codecs', 'name']);
  const {
    threads = availableThreads(),
    isa = 'auto',
    precision = 'exact',
    kvDtype = 'f32',
    binding,
    cache,
    codecs = [],
    name = 'cpu',
  } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024)
    throw badOption('threads', threads, 'Pass a whole number from 1 to 1024.');
  if (!ISAS.includes(isa)) throw badOption('isa', isa, `Use one of ${ISAS.join(', ')}.`);
  if (precision !== 'exact' && precision !== 'fast') throw badOption('precision', precision, 'Use exact or fast.');
  if (!['f32', 'f16', 'bf16'].includes(kvDtype)) throw badOption('kvDtype', kvDtype, 'Use f32, f16 or bf16.');
  if (typeof name !== 'string' || name === '') throw badOption('name', name, 'Pass a word.');
  if (!Array.isArray(codecs)) throw badOption('codecs', codecs, 'Pass a list of codecs.');
  const chosen = chosenCache(cache);
  const { how = 'map', onProblem = warnOnce() } = (chosen ?? {}) as CpuCacheOptions;
  if (how !== 'read' && how !== 'map') throw badOption('cache.how', how, 'Use read or map.');
  if (typeof onProblem !== 'function') throw badOption('cache.onProblem', onProblem, 'Pass a function.');
  const store = chosen && { ...cacheSettings(chosen), how, onProblem };
  const given = binding !== undefined && typeof binding !== 'string' ? addon.check(binding) : undefined;
  const find = (): CpuBinding => given ?? addon.load({ path: binding as string | undefined });
  return {
    spec: 1,
    name,
    async probe() {
      try {
        const found = chosenIsa(find(), isa);
        return {
          ok: true,
          detail: `${hostFacts().processor}: ${found}, ${threads === 1 ? 'one thread' : `${threads} threads`}, ${precision}`,
        };
      } catch (error) {
        return { ok: false, ...whyNot(error) };
      }
    },
    async open(opened) {
      const found = find();
      const settings = {
        name,
        isa: chosenIsa(found, isa),
        threads,
        precision,
        kvDtype,
        cache: store,
        codecs: [...codecs, ...(opened?.codecs ?? [])],
      };
      return new CpuBackend(found, settings, hostFacts().memory);
    },
  };
}
