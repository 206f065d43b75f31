// Where the addon comes from.

import { Addon, platformPackage as platformPackageOf } from '@lowbit/addon';
import { BINDING_ABI, BINDING_FUNCTIONS, type CpuBinding } from './binding.ts';

export const addon: Addon<CpuBinding> = new Addon<CpuBinding>({
  backend: 'cpu',
  package: '@lowbit/kernels-cpu',
  file: 'lowbit_cpu.node',
  from: import.meta.url,
  variable: 'LOWBIT_CPU_ADDON',
  abi: BINDING_ABI,
  functions: BINDING_FUNCTIONS,
  build:
    'Run npm install --no-save cmake-js node-addon-api node-api-headers, then node build-native.mjs in the folder of the package: it needs cmake, make or ninja, and a C++20 compiler.',
});

/** Name of the package that brings the addon for a platform. */
export function platformPackage(platform?: string, arch?: string): string {
  return platformPackageOf('@lowbit/kernels-cpu', platform, arch);
}
