export type { CpuAddon, Isa } from './binding.ts';
export { type CachedModel, type CacheListing, listCache, removeCached } from './cache/models.node.ts';
export type { CacheOptions } from './cache/settings.node.ts';
export { type CpuCacheOptions, type CpuOptions, cpu } from './cpu.ts';
export { platformPackage } from './load.node.ts';
