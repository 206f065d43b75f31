export type * from './backend.ts';
export type * from './checkpoint.ts';
export * from './errors.ts';
export type * from './format.ts';
export type * from './model.ts';
export type * from './program.ts';
export type * from './quantizer.ts';
export type * from './tensor.ts';
