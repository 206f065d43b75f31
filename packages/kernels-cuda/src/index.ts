export type { CudaBinding } from './binding.ts';
// `backend`: for `lowbit --backend @lowbit/kernels-cuda`.
export { type CudaOptions, cuda, cuda as backend } from './cuda.ts';
export { platformPackage } from './load.node.ts';
