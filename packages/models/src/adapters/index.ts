import type { ModelAdapter } from '@lowbit/core';
import { bloom } from './bloom.ts';
import { clip, clipVision } from './clip.ts';
import { gemma, gemma2, gemma3 } from './gemma.ts';
import { gptNeox } from './gpt-neox.ts';
import { gpt2 } from './gpt2.ts';
import { granite } from './granite.ts';
import { llama } from './llama.ts';
import { llava } from './llava.ts';
import { mistral } from './mistral.ts';
import { mixtral } from './mixtral.ts';
import { olmo2 } from './olmo2.ts';
import { opt } from './opt.ts';
import { phi } from './phi.ts';
import { phi3 } from './phi3.ts';
import { qwen2, qwen3 } from './qwen.ts';
import { qwen2Moe, qwen3Moe } from './qwen-moe.ts';
import { smollm3 } from './smollm3.ts';
import { starcoder2 } from './starcoder2.ts';
import { t5 } from './t5.ts';
import { timm } from './timm.ts';

/** The adapters that come with this package. */
export const defaultAdapters: readonly ModelAdapter[] = [
  llama,
  mistral,
  mixtral,
  gemma,
  gemma2,
  gemma3,
  phi3,
  phi,
  qwen2,
  qwen3,
  qwen2Moe,
  qwen3Moe,
  granite,
  olmo2,
  smollm3,
  starcoder2,
  gpt2,
  gptNeox,
  bloom,
  opt,
  t5,
  llava,
  clip,
  clipVision,
  timm,
];
