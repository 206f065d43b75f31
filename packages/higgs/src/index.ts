// The public names of @lowbit/higgs.

export type { HiggsBits, HiggsDim } from './grid.ts';
export { higgs } from './higgs.ts';
export type { HiggsOptions } from './options.ts';
