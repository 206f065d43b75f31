// A file of its own, since --help names it: what measures brings models along, which takes time to load.

/** Tokens that sensitivities are measured on unasked. */
export const SENSITIVITY_TOKENS = 128;
