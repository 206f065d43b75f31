// The provider: options checked, addon and driver looked for when a backend is probed or opened, not when this module is imported.

import { whyNot } from '@lowbit/addon';
import { type BackendProvider, checkOptionNames, type FormatCodec, LowbitError } from '@lowbit/core';
import { CudaBackend, cudaVersion } from './backend.ts';
import type { CudaBinding, ImageFacts, StoredFloat } from './binding.ts';
import { checkFree, deviceError } from './errors.ts';
import { addon, namedDriver } from './load.node.ts';

/** Of `cuda`. */
export interface CudaOptions {
  /** Which GPU, as the driver counts them (CUDA_VISIBLE_DEVICES); default 0. */
  readonly device?: number;
  /**
   * `fast`: steps of 65 rows and more (prompts) multiply activations of 12 bits, off by a 4,094th of the largest of each 64 at most, with half of the products; `exact`,
   * the default, those of 23 bits. Fewer rows (text that is generated) are the same either way, and so is LLM.int8.
   */
  readonly precision?: 'exact' | 'fast';
  /** In which dtype keys and values of sequences are kept; default `f32`. The others halve their memory and round each number. */
  readonly kvDtype?: StoredFloat;
  /** Bytes of the GPU's memory for weights; default all. Weights beyond it stay in memory of the host, in the order in which they are loaded, and come ahead of their use in each step. */
  readonly weightMemory?: number;
  /** Path of the driver's library. Default: LOWBIT_CUDA_DRIVER, else the system's. */
  readonly driver?: string;
  /** The addon, or a path to it, for bundlers and Electron. Default: see the README. */
  readonly binding?: CudaBinding | string;
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
  /** Default `cuda`; another name tells two of them apart across a cut. */
  readonly name?: string;
}

function badOption(option: string, value: unknown, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `cuda: ${option} cannot be ${String(value)}`, { hint, details: { option, value } });
}

const GIB = 2 ** 30;

/** What kernels are there, in words. */
function kernelsOf({ bytes, targets }: ImageFacts): string {
  return bytes > 0 ? `kernels for ${targets}` : 'no kernels embedded';
}

/**
 * The CUDA backend: one NVIDIA GPU. Nothing is loaded until it is probed or opened. Throws ERR_BAD_ARGUMENT for an option that cannot be; `open` rejects with
 * ERR_BACKEND_UNAVAILABLE where the addon, the driver, a GPU, its memory or kernels for it are missing (`details.reason` says which).
 *
 * @example
 * const runtime = await createRuntime({ backends: [cuda(), cpu()] });
 */
export function cuda(options: CudaOptions = {}): BackendProvider {
  checkOptionNames('cuda', options, ['device', 'precision', 'kvDtype', 'weightMemory', 'driver', 'binding', 'codecs', 'name']);
  const {
    device = 0,
    precision = 'exact',
    kvDtype = 'f32',
    weightMemory = Number.POSITIVE_INFINITY,
    driver,
    binding,
    codecs = [],
    name = 'cuda',
  } = options;
  if (!Number.isInteger(device) || device < 0 || device > 1023) throw badOption('device', device, 'Pass a whole number from 0.');
  if (precision !== 'exact' && precision !== 'fast') throw badOption('precision', precision, 'Use exact or fast.');
  if (!['f32', 'f16', 'bf16'].includes(kvDtype)) throw badOption('kvDtype', kvDtype, 'Use f32, f16 or bf16.');
  if (typeof weightMemory !== 'number' || !(weightMemory >= 0)) throw badOption('weightMemory', weightMemory, 'Pass a number of bytes.');
  if (driver !== undefined && (typeof driver !== 'string' || driver === '')) throw badOption('driver', driver, 'Pass a path.');
  if (typeof name !== 'string' || name === '') throw badOption('name', name, 'Pass a word.');
  if (!Array.isArray(codecs)) throw badOption('codecs', codecs, 'Pass a list of codecs.');
  if (binding !== undefined && typeof binding !== 'string') addon.check(binding);
  const find = (): CudaBinding => (typeof binding === 'object' ? binding : addon.load({ path: binding }));
  return {
    spec: 1,
    name,
    async probe() {
      try {
        const found = find();
        const facts = await found.probe(driver ?? namedDriver(), device);
        checkFree(facts);
        const memory = `${(facts.free / GIB).toFixed(1)} of ${(facts.total / GIB).toFixed(1)} GiB free`;
        const detail = `${facts.name}: sm_${facts.capability}, driver of CUDA ${cudaVersion(facts.version)}, ${memory}, ${kernelsOf(found.image())}`;
        return { ok: true, detail };
      } catch (error) {
        return { ok: false, ...whyNot(deviceError(error, { opening: true })) };
      }
    },
    async open(opened) {
      const found = find();
      try {
        const handle = await found.openDevice(driver ?? namedDriver(), device);
        try {
          checkFree(found.deviceFacts(handle));
        } catch (error) {
          found.closeDevice(handle);
          throw error;
        }
        return new CudaBackend(found, handle, {
          name,
          precision,
          kvDtype,
          weightMemory,
          fuse: true,
          codecs: [...codecs, ...(opened?.codecs ?? [])],
        });
      } catch (error) {
        throw deviceError(error, { opening: true });
      }
    },
  };
}
