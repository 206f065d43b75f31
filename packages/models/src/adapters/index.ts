import { type JsonObject, LowbitError, type ModelAdapter } from '@lowbit/core';
import { llama } from './llama.ts';

/** The adapters that come with this package. */
export const defaultAdapters: readonly ModelAdapter[] = [llama];

/**
 * The adapter for a config's `model_type`; the caller's come first, so one of them may take the place of a built-in one.
 * Throws ERR_UNSUPPORTED_ARCH listing the supported types.
 */
export function findAdapter(config: JsonObject, adapters: readonly ModelAdapter[] = []): ModelAdapter {
  const all = [...adapters, ...defaultAdapters];
  const type = config.model_type;
  const found = typeof type === 'string' ? all.find((adapter) => adapter.modelTypes.includes(type)) : undefined;
  if (found) return found;
  const supported = [...new Set(all.flatMap((adapter) => adapter.modelTypes))].sort();
  const what = typeof type === 'string' ? `model_type ${JSON.stringify(type)} is not supported` : 'config.json has no model_type';
  throw new LowbitError('ERR_UNSUPPORTED_ARCH', what, {
    hint: `Supported: ${supported.join(', ')}. Other architectures can be added: pass a ModelAdapter in \`adapters\`.`,
    details: { modelType: type, supported },
  });
}
