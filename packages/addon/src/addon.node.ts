// Where an addon comes from: a path that was given, else the build in its package's folder, else the package of this platform. What fails says what was
// tried and what to do at each.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isLowbitError, LowbitError } from '@lowbit/core';
import { builtFor, cLibraryOf } from './built-for.node.ts';

/** An addon as its package describes it. */
export interface AddonSpec<Binding> {
  /** What the backend is called in messages, such as `cpu`. */
  readonly backend: string;
  /** The package that it belongs to, such as `@lowbit/kernels-cpu`. */
  readonly package: string;
  /** The file as its build names it, such as `lowbit_cpu.node`: in `build/Release` of the package's folder, one above `from`. */
  readonly file: string;
  /** `import.meta.url` of a module of the package, in `src` or `dist`: platform packages are looked for from there. */
  readonly from: string;
  /** The environment variable that names another file, such as LOWBIT_CPU_ADDON. */
  readonly variable: string;
  /** Version of the interface between JavaScript and C++: the addon has it as `abi`. */
  readonly abi: number;
  /** What the addon must have. */
  readonly functions: readonly (keyof Binding & string)[];
  /** What to do where it is not built. */
  readonly build: string;
}

/** One way to the addon that led nowhere. */
export interface Rung {
  readonly rung: 'path' | 'local build' | 'platform package';
  readonly tried: string;
  readonly problem: string;
  readonly remedy: string;
}

/** How an addon is looked for. */
export interface LoadOptions {
  /** Takes the place of the environment variable and of the other rungs. */
  readonly path?: string | undefined;
  /** For tests: how modules are loaded. */
  readonly load?: ((id: string) => unknown) | undefined;
}

/** One addon: found once, when it is first asked for. */
export class Addon<Binding extends { readonly abi: number }> {
  readonly #spec: AddonSpec<Binding>;
  readonly #require: NodeJS.Require;
  #loaded: Binding | undefined;

  constructor(spec: AddonSpec<Binding>) {
    this.#spec = spec;
    this.#require = createRequire(spec.from);
  }

  /** Throws ERR_BAD_ARGUMENT unless a binding that the caller brought has the functions that are called. */
  check(binding: { readonly abi: number }): Binding {
    const { backend, file } = this.#spec;
    const problem = this.#flaw(binding);
    if (problem === undefined) return binding as Binding;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${backend}: the option binding cannot be used: ${problem}`, {
      hint: `Pass what require('.../${file}') gives, of the same release, or a path to it.`,
      details: { option: 'binding' },
    });
  }

  /**
   * The addon. A path that is given (`path`, else the environment variable) is the only one tried: what was asked for is never replaced by something else.
   * Throws ERR_BACKEND_UNAVAILABLE with every rung, what went wrong there and the remedy (also in `details.rungs`).
   */
  load({ path = process.env[this.#spec.variable] || undefined, load = this.#require }: LoadOptions = {}): Binding {
    const keeps = path === undefined && load === this.#require;
    if (keeps && this.#loaded) return this.#loaded;
    const rungs: Rung[] = [];
    for (const way of this.#ways(path)) {
      const found = this.#attempt(way, load);
      if (!('problem' in found)) {
        if (keeps) this.#loaded = found.binding;
        return found.binding;
      }
      rungs.push(found);
    }
    const lines = rungs.map(({ rung, tried, problem, remedy }) => `  ${rung}: ${tried}: ${problem}. ${remedy}`);
    throw new LowbitError('ERR_BACKEND_UNAVAILABLE', `the addon of ${this.#spec.package} could not be loaded:\n${lines.join('\n')}`, {
      hint: `${rungs.some(({ problem }) => problem.includes(OTHER_LIBRARY)) ? `Install ${platformPackage(this.#spec.package)} on the system that runs it. ` : ''}Follow one of the remedies, or use another backend: referenceBackend() of @lowbit/core runs everywhere.`,
      details: { rungs },
    });
  }

  #ways(path: string | undefined): readonly Omit<Rung, 'problem'>[] {
    const { package: owner, file, from, variable, build } = this.#spec;
    if (path !== undefined) {
      return [{ rung: 'path', tried: path, remedy: `Correct the path (option binding, or ${variable}), or leave it out.` }];
    }
    const platform = platformPackage(owner);
    return [
      { rung: 'local build', tried: fileURLToPath(new URL(`../build/Release/${file}`, from)), remedy: build },
      { rung: 'platform package', tried: platform, remedy: `Install ${platform}, if there is one for this platform.` },
    ];
  }

  #attempt(way: Omit<Rung, 'problem'>, load: (id: string) => unknown): { readonly binding: Binding } | Rung {
    try {
      // Before it is loaded: with another C library it may end the process.
      const foreign = this.#foreignLibrary(way.tried);
      if (foreign !== undefined) return { ...way, problem: foreign };
      const binding = load(way.tried);
      const problem = this.#flaw(binding);
      return problem === undefined ? { binding: binding as Binding } : { ...way, problem };
    } catch (error) {
      return { ...way, problem: this.#foreign(way.tried) ?? this.#sibling(way.tried) ?? messageOf(error) };
    }
  }

  /** What keeps a module from being the addon; undefined if nothing. */
  #flaw(loaded: unknown): string | undefined {
    const { abi, functions } = this.#spec;
    const binding = loaded as Partial<Binding> | null;
    const missing = functions.filter((name) => typeof binding?.[name] !== 'function');
    if (missing.length > 0) return `it is not this addon: it lacks ${missing.join(', ')}`;
    return binding?.abi === abi ? undefined : `it is another version of the addon (${binding?.abi}, wanted ${abi})`;
  }

  /** That a file is for another machine, if it is. */
  #foreign(id: string): string | undefined {
    const here = `${process.platform}-${process.arch}`;
    const other = builtFor(this.#resolved(id) ?? id);
    return other === undefined || other === here ? undefined : `it is built for ${other}, and this is ${here}`;
  }

  /** That a file is for this machine with another C library, if it is. */
  #foreignLibrary(id: string): string | undefined {
    if (process.platform !== 'linux') return undefined;
    const file = this.#resolved(id) ?? id;
    const other = cLibraryOf(file);
    if (other === undefined || other === libc() || builtFor(file) !== `linux-${process.arch}`) return undefined;
    return `it is built for Linux with ${LIBC[other]}${OTHER_LIBRARY}${LIBC[libc()]}`;
  }

  /** Where the package of this platform is not installed, that the one for the other C library is: so in a node_modules that was copied. */
  #sibling(id: string): string | undefined {
    if (process.platform !== 'linux' || id !== platformPackage(this.#spec.package)) return undefined;
    const other = libc() === 'musl' ? 'gnu' : 'musl';
    const name = platformPackage(this.#spec.package, 'linux', process.arch, other);
    if (this.#resolved(name) === undefined) return undefined;
    return `it is not installed; ${name} is, for ${LIBC[other]}${OTHER_LIBRARY}${LIBC[libc()]}: node_modules was installed on another system`;
  }

  #resolved(id: string): string | undefined {
    try {
      return this.#require.resolve(id);
    } catch {
      return undefined; // what is not there has another problem
    }
  }
}

/** Name of the package that brings the addon of `owner` to a platform: `@lowbit/kernels-cpu-linux-x64-gnu`. */
export function platformPackage(
  owner: string,
  platform: string = process.platform,
  arch: string = process.arch,
  library: 'gnu' | 'musl' = libc(),
): string {
  return `${owner}-${platform}-${arch}${platform === 'linux' ? `-${library}` : ''}`;
}

const LIBC = { gnu: 'glibc', musl: 'musl' } as const;
const OTHER_LIBRARY = ', and this Node.js is for ';
let known: 'gnu' | 'musl' | undefined;

/** The C library of this Node.js, where it is for Linux. A report takes milliseconds: one is enough. */
function libc(): 'gnu' | 'musl' {
  if (known === undefined) {
    const { header } = process.report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } };
    known = header?.glibcVersionRuntime === undefined ? 'musl' : 'gnu';
  }
  return known;
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

/** The message of a failure to load or open, for `probe`. */
export function whyNot(error: unknown): { readonly reason: string; readonly hint?: string } {
  if (!isLowbitError(error)) return { reason: messageOf(error) };
  return error.hint === undefined ? { reason: error.message } : { reason: error.message, hint: error.hint };
}
