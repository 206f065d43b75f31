export * from './backend.ts';
export type * from './checkpoint.ts';
export * from './errors.ts';
export type * from './format.ts';
export type * from './model.ts';
export type {
  Activation,
  CacheUse,
  ConstantId,
  LinearId,
  LinearUse,
  Op,
  OpName,
  OpOf,
  PositionBias,
  Program,
  ProgramTensor,
  Rope,
  RowDomain,
  TensorId,
} from './program.ts';
export type * from './quantizer.ts';
export type * from './tensor.ts';
