export type { GpuAdapter, GpuDevice, GpuFeature } from './gpu.ts';
// `backend`: for `lowbit --backend @lowbit/kernels-webgpu`.
export { type WebGpuOptions, webgpu, webgpu as backend } from './webgpu.ts';
