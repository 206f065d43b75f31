// What a loaded model is made of.

import type { JsonObject, LinearSite, LowbitError, ModelDescription } from '@lowbit/core';
import type { GenerationDefaults } from '../sampling/settings.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { LoadedEncoder } from './encoder.ts';
import type { Runner } from './runner.ts';
import type { LoadedTower } from './sight.ts';

/** What `loadModel` hands over. */
export interface LanguageModelParts {
  readonly label: string;
  readonly config: JsonObject;
  readonly description: ModelDescription;
  readonly sites: readonly LinearSite[];
  readonly runner: Runner;
  /** Of encoder-decoder models; `runner` is then the decoder's. */
  readonly encoder?: LoadedEncoder | undefined;
  /** Of models that look at images. */
  readonly tower?: LoadedTower | undefined;
  readonly contextLength: number;
  readonly prefillChunk: number;
  readonly maxSequences: number;
  readonly defaults: GenerationDefaults;
  /** The tokenizer, or why there is none. */
  readonly tokenizer: Tokenizer | LowbitError;
  /** Disposed with the model. */
  readonly ownRuntime: AsyncDisposable | undefined;
}
