// Where WebGPU comes from: `navigator.gpu` where it is there (browsers, Deno, workers), else the package `webgpu` (Dawn) in Node and Bun.

import { unavailable } from './errors.ts';
import type { Gpu, GpuAdapter, GpuDevice, GpuFeature } from './gpu.ts';

/** What the package `webgpu` gives. */
interface Dawn {
  create(options: readonly string[]): Gpu;
}

export interface AdapterChoice {
  readonly powerPreference?: 'low-power' | 'high-performance' | undefined;
  /** Whether an adapter that computes on the CPU will do. */
  readonly software: boolean;
}

function isNode(): boolean {
  return typeof (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node === 'string';
}

/** Kept for the process, by options: instances of Dawn that come and go take drivers down with them. */
const started = new Map<string, Gpu>();

/** `options` are those of Dawn in Node. Rejects with ERR_BACKEND_UNAVAILABLE. */
export async function findGpu(options: readonly string[] = []): Promise<Gpu> {
  const { navigator } = globalThis as { navigator?: { gpu?: Gpu } };
  if (navigator?.gpu) return navigator.gpu;
  if (!isNode()) {
    const secure = (globalThis as { isSecureContext?: boolean }).isSecureContext;
    throw secure === false
      ? unavailable('INSECURE', 'this page is not served securely: WebGPU is there for https and localhost only', 'Serve it over https.')
      : unavailable(
          'NO_WEBGPU',
          'there is no WebGPU here',
          'Use a browser with WebGPU (Chrome or Edge 113, Firefox 141, Safari 26), or another backend.',
        );
  }
  const known = started.get(options.join());
  if (known) return known;
  let dawn: Dawn;
  try {
    // A name that bundlers for browsers do not see through: they would put Node's package into the page.
    const name = ['web', 'gpu'].join('');
    dawn = (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as Dawn;
  } catch (error) {
    throw unavailable(
      'NO_PACKAGE',
      'the package `webgpu` is not installed',
      'In Node: npm install webgpu (Dawn). Or use another backend.',
      error,
    );
  }
  try {
    const gpu = dawn.create(options);
    started.set(options.join(), gpu);
    return gpu;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw unavailable('NO_DAWN', `Dawn does not start: ${message}`, 'See what the package `webgpu` needs on this system.', error);
  }
}

/** The adapter of a GPU, in words. */
export function labelOf(adapter: Pick<GpuAdapter, 'info'>): string {
  const { vendor, architecture, device, description } = adapter.info ?? {};
  const parts = [description, vendor, architecture, device].filter((part) => part);
  return description || parts.slice(0, 2).join(' ') || 'a GPU without a name';
}

export function isSoftware({ info }: Pick<GpuAdapter, 'info'>): boolean {
  return (
    info?.isFallbackAdapter === true ||
    /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(`${info?.description} ${info?.device} ${info?.architecture}`)
  );
}

/** Rejects with ERR_BACKEND_UNAVAILABLE. */
export async function findAdapter(gpu: Gpu, { powerPreference, software }: AdapterChoice): Promise<GpuAdapter> {
  let adapter: GpuAdapter | null;
  try {
    adapter = await gpu.requestAdapter(powerPreference ? { powerPreference } : {});
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw unavailable('NO_ADAPTER', `no adapter: ${message}`, 'See chrome://gpu, or use another backend.', error);
  }
  if (!adapter) {
    throw unavailable(
      'NO_ADAPTER',
      'WebGPU is there but has no adapter: no GPU, no driver for it (Vulkan, Metal or Direct3D 12), or it is on the block list',
      isNode()
        ? 'Install a Vulkan driver and loader; VK_DRIVER_FILES names one in a place of its own. Or use another backend.'
        : 'chrome://gpu (about:support in Firefox) says why. Update the driver, turn hardware acceleration on, or use another backend.',
    );
  }
  if (!software && isSoftware(adapter)) {
    throw unavailable(
      'SOFTWARE_ADAPTER',
      `the only adapter is ${labelOf(adapter)}, which computes on the CPU, slowly`,
      'Pass webgpu({ software: true }) to take it all the same, or use cpu() of @lowbit/kernels-cpu.',
    );
  }
  return adapter;
}

/** What the kernels cannot do without; all adapters of the core profile have more. */
const LEAST = { maxStorageBuffersPerShaderStage: 6, maxComputeInvocationsPerWorkgroup: 64, maxComputeWorkgroupStorageSize: 16384 } as const;
/** Asked for in full where the adapter has more than WebGPU promises. */
const WANTED = ['maxBufferSize', 'maxStorageBufferBindingSize', 'maxComputeWorkgroupStorageSize'] as const;

/** Throws ERR_BACKEND_UNAVAILABLE, naming the limit, for an adapter or device that is too small. */
export function checkLimits({ limits, info }: Pick<GpuAdapter, 'limits' | 'info'>): void {
  for (const [name, least] of Object.entries(LEAST)) {
    const has = limits[name as keyof typeof LEAST];
    if (has >= least) continue;
    throw unavailable(
      'LIMIT',
      `${labelOf({ ...(info ? { info } : {}) })} has ${name} ${has}, the kernels need ${least}`,
      'Use another GPU or backend.',
    );
  }
}

/** Used where they are there, and nothing is missed where they are not. */
export const FEATURES: readonly GpuFeature[] = ['subgroups', 'shader-f16'];

/** Subgroups that are all smaller cost more than they save: products of one row took 1.5 times as long in those of 4 (docs/benchmarks.md). */
const LEAST_SUBGROUP = 8;

/** Of `wanted`, those that an adapter or a device has; where nothing is said, those that pay on it. */
export function featuresOf({ features, info }: Pick<GpuAdapter, 'features' | 'info'>, wanted?: readonly GpuFeature[]): GpuFeature[] {
  const small = (info?.subgroupMaxSize ?? LEAST_SUBGROUP) < LEAST_SUBGROUP;
  const those = wanted ?? FEATURES.filter((name) => !(name === 'subgroups' && small));
  return FEATURES.filter((name) => those.includes(name) && features.has(name));
}

/** With those of `features` that it has. Rejects with ERR_BACKEND_UNAVAILABLE. */
export async function requestDevice(adapter: GpuAdapter, features: readonly GpuFeature[] = FEATURES): Promise<GpuDevice> {
  checkLimits(adapter);
  try {
    return await adapter.requestDevice({
      label: 'lowbit',
      requiredFeatures: featuresOf(adapter, features),
      requiredLimits: Object.fromEntries(WANTED.map((name) => [name, adapter.limits[name]])),
    });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw unavailable(
      'NO_DEVICE',
      `${labelOf(adapter)} gives no device: ${message}`,
      'Close other pages and programs that use the GPU, or use another backend.',
      error,
    );
  }
}
