export type { CudaBinding } from './binding.ts';
export { type CudaOptions, cuda } from './cuda.ts';
export { platformPackage } from './load.node.ts';
