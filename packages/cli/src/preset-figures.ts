// Made by `node tools/preset-figures.mjs` of bench/results: not to be edited.

/** What was measured of presets. */
export const FIGURES = {
  best4: '4.5 bits a weight; KL divergence 0.38 of the solver hqq on SmolLM2, 0.89 on tiny-llama',
  small3: '3.7 bits a weight; KL divergence 0.24 of the solver hqq on SmolLM2, 0.87 on tiny-llama',
  tiny2: '2.5 bits a weight; KL divergence 0.29 of the solver hqq on SmolLM2, 0.66 on tiny-llama',
  python4: '4.5 bits a weight; KL divergence 0.61 of nf4 on SmolLM2, 0.85 on tiny-llama',
} as const;
