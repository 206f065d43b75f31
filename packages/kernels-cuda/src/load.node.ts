// Where the addon and the driver come from.

import { Addon, platformPackage as platformPackageOf } from '@lowbit/addon';
import { BINDING_ABI, BINDING_FUNCTIONS, type CudaBinding } from './binding.ts';

export const addon: Addon<CudaBinding> = new Addon<CudaBinding>({
  backend: 'cuda',
  package: '@lowbit/kernels-cuda',
  file: 'lowbit_cuda.node',
  from: import.meta.url,
  variable: 'LOWBIT_CUDA_ADDON',
  abi: BINDING_ABI,
  functions: BINDING_FUNCTIONS,
  build:
    'Run npm install --no-save cmake-js node-addon-api node-api-headers, then node build-native.mjs in the folder of the package: it needs cmake, make or ninja, a C++20 compiler, and nvcc for the kernels.',
});

/** Name of the package that brings the addon for a platform. */
export function platformPackage(platform?: string, arch?: string): string {
  return platformPackageOf('@lowbit/kernels-cuda', platform, arch);
}

/** The path of the driver that the environment names: for tests, and for drivers in places of their own. */
export function namedDriver(): string | undefined {
  return process.env.LOWBIT_CUDA_DRIVER || undefined;
}
