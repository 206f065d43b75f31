// Methods of third parties: a module that makes a quantizer, and the layouts that store and read what it makes.

import { type CheckpointLayout, type FormatCodec, LowbitError, type Quantizer } from '@lowbit/core';
import { importModule } from './module-file.ts';
import type { MethodSettings } from './parse.ts';

/** What the default export, or the export `method`, of a method's module is. */
export interface MethodPlugin {
  /** Version of this contract. */
  readonly spec: 1;
  /** For people. */
  readonly name: string;
  /** The method with the settings of the command's flags (`bits`, `group`, ...) that were given. Throws ERR_BAD_ARGUMENT for one that it does not have. */
  quantizer(settings: MethodSettings): Quantizer;
  /** How folders store it, for writing and for reading; tried before those of lowbit. */
  readonly layouts: readonly CheckpointLayout[];
  /** Of formats of its own. Formats of core need none, and run on every backend. */
  readonly codecs?: readonly FormatCodec[] | undefined;
}

/** What plug-ins bring for opening a folder and running it. */
export interface PluginParts {
  readonly layouts: readonly CheckpointLayout[];
  readonly codecs: readonly FormatCodec[];
}

const HINT = 'A method is one of lowbit, a path such as ./my-method or ./my-method.mjs, or the name of an installed package.';
const EXPORT = 'Its default export, or the export `method`, is to be { spec: 1, name, quantizer(settings), layouts }.';

/**
 * Imports a module that a person has named, and gives its method. The module is executed.
 * Throws ERR_NOT_FOUND (no such module), ERR_BAD_ARGUMENT (an export that is no method, or keeps another version of the contract), ERR_UNSUPPORTED_FORMAT (a
 * module that fails while it is loaded).
 */
export async function findMethod(name: string, options: { readonly from?: string } = {}): Promise<MethodPlugin> {
  const { from = process.cwd() } = options;
  const exported = await importModule(name, from, { what: 'method', hint: HINT, broken: 'ERR_UNSUPPORTED_FORMAT' });
  const found = exported.find(
    (value): value is Partial<Record<string, unknown>> => typeof value === 'object' && value !== null && 'spec' in value,
  );
  const refuse = (problem: string, hint: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `${name} ${problem}`, { hint, details: { method: name, from } });
  if (found === undefined) throw refuse('exports no method', EXPORT);
  checkSpec(found, 'method', name);
  const { name: own, quantizer, layouts, codecs = [] } = found;
  if (typeof own !== 'string' || own === '' || typeof quantizer !== 'function' || !Array.isArray(layouts) || !Array.isArray(codecs))
    throw refuse('exports something that is no method', EXPORT);
  for (const layout of layouts as readonly unknown[]) checkSpec(layout, 'layout', name);
  if (!(codecs as readonly unknown[]).every(isCodec))
    throw refuse('has codecs that are none', 'A codec has a kind, and the functions parts, unpackRows, numbers and dequantize.');
  const plugin = found as unknown as MethodPlugin;
  // Named one by one: those of an instance of a class lie on its prototype.
  return {
    ...{ spec: 1, name: own, layouts: plugin.layouts, codecs: plugin.codecs },
    quantizer(settings) {
      const made: unknown = plugin.quantizer(settings);
      checkSpec(made, 'quantizer', name);
      return made as Quantizer;
    },
  };
}

/** What several plug-ins bring together. Throws as `findMethod`. */
export async function findPlugins(names: readonly string[] = [], options: { readonly from?: string } = {}): Promise<PluginParts> {
  const plugins: MethodPlugin[] = [];
  for (const name of names) plugins.push(await findMethod(name, options));
  return { layouts: plugins.flatMap(({ layouts }) => layouts), codecs: plugins.flatMap(({ codecs = [] }) => codecs) };
}

function isCodec(value: unknown): boolean {
  const codec = (typeof value === 'object' && value !== null ? value : {}) as Partial<Record<string, unknown>>;
  return (
    typeof codec.kind === 'string' && ['parts', 'unpackRows', 'numbers', 'dequantize'].every((name) => typeof codec[name] === 'function')
  );
}

function checkSpec(value: unknown, what: string, name: string): void {
  const { spec } = (typeof value === 'object' && value !== null ? value : {}) as { readonly spec?: unknown };
  if (spec === 1) return;
  const known = typeof spec === 'number';
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    known ? `the ${what} of ${name} keeps version ${spec} of the contract; this lowbit keeps version 1` : `${name} has no ${what} (spec 1)`,
    {
      hint: known ? `Install the version of ${name} that belongs to this lowbit, or another lowbit.` : EXPORT,
      details: { method: name, what, spec: spec ?? null },
    },
  );
}
