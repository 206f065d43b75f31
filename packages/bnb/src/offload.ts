// Which linears transformers keeps in floating point because a device map offloads them (llm_int8_enable_fp32_cpu_offload).

import { type DeviceMap, devicePlaces, isPlainRecord } from '@lowbit/core';
import { isNames, refusal, shown } from './refuse.ts';

/** Which modules stay in floating point because they are offloaded. */
export interface OffloadOptions {
  /** Where modules will run, as `loadModel` takes it. Default: nothing is offloaded. */
  readonly deviceMap?: DeviceMap | undefined;
  /** Backends that modules are offloaded to. Default `cpu` and `disk`, as in Python. */
  readonly offload?: string | readonly string[] | undefined;
}

/**
 * The linears at `paths` that a device map offloads. As in Python, a map of one key places everything and offloads nothing.
 * @throws ERR_BAD_ARGUMENT for a path without an entry, and for options that are none
 */
export function offloadedLinears(paths: Iterable<string>, { deviceMap, offload = ['cpu', 'disk'] }: OffloadOptions): string[] {
  if (deviceMap === undefined) return [];
  if (!isPlainRecord(deviceMap) || Object.values(deviceMap).some((name) => typeof name !== 'string')) {
    throw refusal(
      'rules',
      `deviceMap cannot be ${isPlainRecord(deviceMap) || typeof deviceMap === 'string' ? shown(deviceMap) : String(deviceMap)}`,
      "Pass backends by module: { 'model.layers.0': 'cuda', ... }.",
      {},
    );
  }
  const names: unknown = typeof offload === 'string' ? [offload] : offload;
  if (!isNames(names)) {
    throw refusal('rules', `offload cannot be ${shown(offload)}`, 'Name one backend, or several.', {});
  }
  if (Object.keys(deviceMap).length < 2) return [];
  const place = devicePlaces(deviceMap);
  return [...paths].filter((path) => names.includes(place(path)));
}
