// Which adapter knows a model, by what its config.json says.

import { LowbitError } from './spec/errors.ts';
import type { ModelAdapter } from './spec/model.ts';
import type { JsonObject } from './spec/tensor.ts';

/** What config.json says that the model is: `model_type`, or `timm` for a file of that library, which has an `architecture` in its place. */
export function modelTypeOf({ model_type: type, architecture, num_features: features }: JsonObject): JsonObject[string] | undefined {
  return type === undefined && typeof architecture === 'string' && typeof features === 'number' ? 'timm' : type;
}

/** The adapter for what `modelTypeOf` says. Throws ERR_UNSUPPORTED_ARCH. */
export function adapterFor(config: JsonObject, adapters: readonly ModelAdapter[]): ModelAdapter {
  if (!Array.isArray(adapters)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'the option adapters must be an array', {
      hint: 'Pass { adapters: defaultAdapters } of @lowbit/models.',
      details: { option: 'adapters' },
    });
  }
  const type = modelTypeOf(config);
  const found = adapters.find((adapter) => typeof type === 'string' && adapter.modelTypes.includes(type));
  if (found) return found;
  const known = adapters.flatMap((adapter) => adapter.modelTypes);
  throw new LowbitError(
    'ERR_UNSUPPORTED_ARCH',
    type === undefined ? 'config.json has no model_type' : `no adapter for model_type ${JSON.stringify(type)}`,
    {
      hint: `Supported: ${known.join(', ') || 'none given'}. An adapter of your own goes into the \`adapters\` option.`,
      details: { modelType: type ?? null, supported: known },
    },
  );
}
