// The provider: options checked; WebGPU is looked for when a backend is probed or opened, not when this module is imported.

import { type Backend, type BackendProvider, checkOptionNames, type FormatCodec, LowbitError } from '@lowbit/core';
import { checkLimits, FEATURES, featuresOf, findAdapter, findGpu, isSoftware, labelOf, requestDevice } from './adapter.ts';
import { WebGpuBackend } from './backend.ts';
import { Machine } from './device.ts';
import { refusedFeatures, warnOnce, whyNot } from './errors.ts';
import type { GpuAdapter, GpuDevice, GpuFeature } from './gpu.ts';
import type { StoredFloat } from './layout.ts';
import { selfTest } from './self-test.ts';

/** Of `webgpu`. */
export interface WebGpuOptions {
  /** A `GPUDevice` of yours; it is not destroyed with the backend. Default: one of the adapter's, with its largest limits. */
  readonly device?: GpuDevice;
  /** A `GPUAdapter` of yours. Default: the one that WebGPU gives. A device can be asked of an adapter once only: so the backend can be opened once. */
  readonly adapter?: GpuAdapter;
  /** Which GPU of several; default what the browser prefers. */
  readonly powerPreference?: 'low-power' | 'high-performance';
  /** Take an adapter that computes on the CPU, too. Default false: other backends are faster there. */
  readonly software?: boolean;
  /** Options of Dawn, in Node: `backend=vulkan`, `adapter=...` and others that the package `webgpu` lists. Default none. */
  readonly dawn?: readonly string[];
  /** In which dtype keys and values of sequences are kept; default `f32`. The others halve their memory and round each number. */
  readonly kvDtype?: StoredFloat;
  /** Bytes of a weight that are bound at once; default what the device allows. Larger weights lie in several buffers. */
  readonly bindingLimit?: number;
  /**
   * Which features of a GPU are used where it has them. Default both, but no subgroups where all have fewer than 8 members. Leave out what its driver gets
   * wrong; a `device` of yours must have been asked for them.
   */
  readonly features?: readonly GpuFeature[];
  /**
   * Run a small model when the backend is opened, and refuse a GPU that computes something else. A feature with which it does is not used: `onProblem` and
   * `probe` say so. Default true.
   */
  readonly selfTest?: boolean;
  /** Told which features are not used after all, and why. Default: a warning of the process or the console, once. */
  readonly onProblem?: (problem: LowbitError) => void;
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
  /** Default `webgpu`; another name tells two of them apart across a cut. */
  readonly name?: string;
}

const OPTIONS = [
  ...['device', 'adapter', 'powerPreference', 'software', 'dawn', 'kvDtype', 'bindingLimit', 'features', 'selfTest', 'onProblem'],
  ...['codecs', 'name'],
];
const MIB = 2 ** 20;

function badOption(option: string, value: unknown, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `webgpu: ${option} cannot be ${String(value)}`, { hint, details: { option, value } });
}

function isObject(value: unknown, method: string): boolean {
  return typeof value === 'object' && value !== null && typeof (value as Record<string, unknown>)[method] === 'function';
}

/**
 * The WebGPU backend: any GPU, in a browser, and in Node with the package `webgpu`. Nothing is loaded until it is probed or opened. Throws ERR_BAD_ARGUMENT
 * for an option that cannot be; `open` rejects with ERR_BACKEND_UNAVAILABLE where there is no WebGPU, no adapter, or one that is too small or computes
 * wrong numbers (`details.reason` says which).
 *
 * @example
 * const runtime = await createRuntime({ backends: [webgpu(), referenceBackend()] });
 */
export function webgpu(options: WebGpuOptions = {}): BackendProvider {
  checkOptionNames('webgpu', options, OPTIONS);
  const { device, adapter, powerPreference, software = false, kvDtype = 'f32', bindingLimit, codecs = [], name = 'webgpu' } = options;
  const { selfTest: tested = true, dawn = [], features, onProblem = warnOnce() } = options;
  if (device !== undefined && !isObject(device, 'createBuffer')) throw badOption('device', device, 'Pass a GPUDevice.');
  if (adapter !== undefined && !isObject(adapter, 'requestDevice')) throw badOption('adapter', adapter, 'Pass a GPUAdapter.');
  if (powerPreference !== undefined && powerPreference !== 'low-power' && powerPreference !== 'high-performance') {
    throw badOption('powerPreference', powerPreference, 'Use low-power or high-performance.');
  }
  for (const [option, value] of Object.entries({ software, selfTest: tested })) {
    if (typeof value !== 'boolean') throw badOption(option, value, 'Pass true or false.');
  }
  if (!Array.isArray(dawn) || !dawn.every((one) => typeof one === 'string')) throw badOption('dawn', dawn, 'Pass a list of words.');
  if (!['f32', 'f16', 'bf16'].includes(kvDtype)) throw badOption('kvDtype', kvDtype, 'Use f32, f16 or bf16.');
  if (bindingLimit !== undefined && !(Number.isSafeInteger(bindingLimit) && bindingLimit >= 4096)) {
    throw badOption('bindingLimit', bindingLimit, 'Pass a whole number of bytes from 4096.');
  }
  if (features !== undefined && !(Array.isArray(features) && features.every((one) => FEATURES.includes(one)))) {
    throw badOption('features', features, `Pass a list of ${FEATURES.join(' and ')}, or [].`);
  }
  if (typeof onProblem !== 'function') throw badOption('onProblem', onProblem, 'Pass a function.');
  if (!Array.isArray(codecs)) throw badOption('codecs', codecs, 'Pass a list of codecs.');
  if (typeof name !== 'string' || name === '') throw badOption('name', name, 'Pass a word.');

  /** Features of GPUs that failed the self-test, by label. */
  const refused = new Map<string, LowbitError>();
  const find = async (): Promise<GpuAdapter> => adapter ?? findAdapter(await findGpu(dawn), { powerPreference, software });
  const open = async (more: readonly FormatCodec[]): Promise<Backend> => {
    const found = device ? undefined : await find();
    const gpu = device ?? (await requestDevice(found!, features));
    if (device) checkLimits({ limits: device.limits, ...(device.adapterInfo ? { info: device.adapterInfo } : {}) });
    const info = found?.info ?? gpu.adapterInfo;
    const described = info ? { info } : {};
    const machine = new Machine(gpu, labelOf(described), { binding: bindingLimit, own: device === undefined });
    const settings = { name, kvDtype, codecs: [...codecs, ...more] };
    const backend = new WebGpuBackend(machine, { ...settings, features: ['webgpu', ...(isSoftware(described) ? ['software'] : [])] });
    const has = featuresOf({ features: gpu.features, ...described }, features);
    try {
      if (tested) await useWhatPasses(backend, machine, has);
      else machine.use(has);
    } catch (error) {
      await backend[Symbol.asyncDispose]();
      throw error;
    }
    return backend;
  };
  /** With all features; then with fewer, if those that are left compute what they should. */
  const useWhatPasses = async (backend: WebGpuBackend, machine: Machine, has: readonly GpuFeature[]): Promise<void> => {
    refused.delete(machine.label);
    let first: unknown;
    const each = has.length > 1 ? has.map((one) => [one]) : [];
    const tries = [has, ...each, ...(has.length > 0 ? [[]] : [])];
    for (const used of tries) {
      machine.use(used);
      try {
        await selfTest(backend);
      } catch (error) {
        if (machine.lost || used.length === 0) throw error;
        first ??= error;
        await machine.device.queue.onSubmittedWorkDone().catch(() => {}); // lost: the next one says so
        continue;
      }
      if (first === undefined) return;
      const problem = refusedFeatures(
        machine.label,
        has.filter((one) => !used.includes(one)),
        first,
      );
      refused.set(machine.label, problem);
      onProblem(problem);
      return;
    }
  };
  return {
    spec: 1,
    name,
    async probe() {
      try {
        const found = device ? { info: device.adapterInfo, limits: device.limits, features: device.features } : await find();
        const described = { limits: found.limits, ...(found.info ? { info: found.info } : {}) };
        const label = labelOf(described);
        checkLimits(described);
        const { maxStorageBufferBindingSize: bytes } = found.limits;
        const slow = isSoftware(described) ? ', computes on the CPU' : '';
        const problem = refused.get(label);
        const without = (problem?.details?.features ?? []) as readonly GpuFeature[];
        const uses = featuresOf({ features: found.features, ...described }, features).filter((one) => !without.includes(one));
        const parts = [
          `binds ${Math.round(bytes / MIB)} MiB at once${slow}`,
          ...(uses.length > 0 ? [`uses ${uses.join(' and ')}`] : []),
          ...(problem ? [whyNot(problem).reason] : []),
        ];
        return { ok: true, detail: `${label}: ${parts.join('; ')}` };
      } catch (error) {
        return { ok: false, ...whyNot(error) };
      }
    },
    async open(opened) {
      return open(opened?.codecs ?? []);
    },
  };
}
