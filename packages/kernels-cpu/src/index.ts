export type { CpuBinding, Isa } from './binding.ts';
export { type CpuOptions, cpu } from './cpu.ts';
export { platformPackage } from './load.node.ts';
