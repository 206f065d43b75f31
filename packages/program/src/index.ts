// Programs of whole models: built, cut, loaded onto backends. Not published: compiled into the packages that import it.

export { ProgramBuilder } from './builder.ts';
export { cutProgram, type ProgramPiece } from './cut.ts';
export { formatPlacement } from './format-placement.ts';
export { type LoadedProgram, type LoadOptions, type LoadWeight, loadProgram, type Placed, type ProgramRuntime } from './load.ts';
export { measuredStep } from './measured-step.ts';
