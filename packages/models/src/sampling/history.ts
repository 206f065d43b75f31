/** The tokens so far: a prompt of `prompt` tokens, then what was generated. */
export interface TokenHistory {
  readonly tokens: readonly number[];
  readonly prompt: number;
}
