// The public names of @lowbit/testing.

export { type BackendConformanceOptions, backendCases, backendConformance } from './backend.ts';
export { type CodecSample, codecCases, codecConformance } from './codec.ts';
export { checkClose, DEFAULT_TOLERANCES, type Tolerances } from './compare.ts';
export { type FormatSample, formatSamples, sampleWeight } from './formats.ts';
export { type Case, type Outcome, registerCases, runCases, type TestRunner } from './kit.ts';
export { type LayoutConformanceOptions, type LayoutSample, layoutCases, layoutConformance } from './layout.ts';
export {
  alone,
  chunked,
  type Played,
  play,
  prepareWeights,
  type Schedule,
  type Script,
  type TestProgram,
  together,
} from './play.ts';
export { decoderCase, type ProgramCase, programCases } from './programs.ts';
export { type QuantizerConformanceOptions, quantizerCases, quantizerConformance } from './quantizer.ts';
export { seeded, seededFloats, seededTensor } from './random.ts';
export { type SinkSubject, sinkCases, sinkConformance } from './sink.ts';
export { type SourceSubject, sampleTensors, sourceCases, sourceConformance } from './source.ts';
