// Chooses backends and loads programs onto them. The order of the backends is the user's; a model never hops to another backend silently.

import { disposeAll } from './dispose.ts';
import { disposedError } from './disposed.ts';
import { linearBackend } from './linear-module.ts';
import { checkOptionNames } from './option-names.ts';
import { answerOf, type BackendReport, type Explanation, fits, formatExplanation, missingOps } from './runtime/explain.ts';
import type { Backend, BackendProvider, LinearRequest, PrepareOptions, Probe, QuantizedLinear } from './spec/backend.ts';
import { LowbitError } from './spec/errors.ts';
import type { FormatCodec, QuantizedTensor } from './spec/format.ts';
import type { Program } from './spec/program.ts';
import type { Routine } from './spec/quantizer.ts';

export { type DeviceMap, devicePlaces } from './runtime/device-map.ts';
export {
  answerOf,
  type BackendReport,
  type Explanation,
  formatExplanation,
  formatLabel,
  type LinearAnswer,
  missingOps,
  refusal,
} from './runtime/explain.ts';

/** Of `createRuntime`. */
export interface RuntimeOptions {
  /** In order of preference. */
  readonly backends: readonly BackendProvider[];
  /** Codecs of custom formats, handed to every backend. */
  readonly codecs?: readonly FormatCodec[];
  /** May a backend expand weights to floats? Default false: it hides what quantizing is for. */
  readonly allowDequant?: boolean;
}

/** A linear as a caller asks about it: `use` defaults to `linear`, `allowDequant` to the runtime's. */
export interface LinearQuestion extends Pick<LinearRequest, 'format' | 'shape'>, Partial<Pick<LinearRequest, 'use' | 'offloadMeta'>> {
  readonly allowDequant?: boolean;
}

/** Backends in order. */
export interface Runtime extends AsyncDisposable {
  readonly codecs: readonly FormatCodec[];
  readonly allowDequant: boolean;
  /** Names of the backends, in order. */
  readonly backends: readonly string[];
  /** Opens a backend by name; default the first that is available. Throws ERR_BACKEND_UNAVAILABLE with the reason. */
  backend(name?: string): Promise<Backend>;
  /** What every backend says to these linears and this program. Opens those that are available. */
  explain(linears: readonly LinearQuestion[], program?: Program): Promise<Explanation>;
  /**
   * The first backend that supports every linear and every operation. Throws ERR_UNSUPPORTED_FORMAT if backends run the program but not the
   * formats, else ERR_BACKEND_UNAVAILABLE; the message holds the table, `details.explanation` its data.
   */
  select(linears: readonly LinearQuestion[], program?: Program): Promise<Backend>;
  /**
   * Prepares one weight on the backend of that name, by default the first that supports it. The caller disposes the linear.
   * Throws ERR_UNSUPPORTED_FORMAT or ERR_BACKEND_UNAVAILABLE.
   */
  linear(weight: QuantizedTensor, options?: PrepareOptions & { readonly backend?: string | undefined }): Promise<QuantizedLinear>;
  /** A backend's version of a quantizer's routine, from the backends that are open. */
  routine(name: string): Routine | undefined;
}

interface Candidate {
  readonly provider: BackendProvider;
  readonly probe: Probe;
  backend?: Promise<Backend>;
  /** Set once it is open. */
  opened?: Backend;
}

/**
 * Probes the backends and opens the first that is available; others open when they are asked for.
 * Throws ERR_BAD_ARGUMENT for two backends of one name, ERR_BACKEND_UNAVAILABLE if none can be opened.
 *
 * @example
 * await using runtime = await createRuntime({ backends: [referenceBackend()] });
 */
export async function createRuntime(options: RuntimeOptions): Promise<Runtime> {
  checkOptionNames('createRuntime', options, ['backends', 'codecs', 'allowDequant']);
  const { backends, codecs = [], allowDequant = false } = options;
  if (!Array.isArray(backends)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'createRuntime needs a list of backends', {
      hint: 'Pass { backends: [referenceBackend()] }.',
    });
  }
  const wrong = backends.find((one) => typeof one?.name !== 'string' || typeof one.probe !== 'function' || typeof one.open !== 'function');
  if (wrong !== undefined || backends.includes(undefined as never) || backends.includes(null as never)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'createRuntime got a backend that is none', {
      hint: 'A backend has name, probe and open: call the function that makes it, as in [referenceBackend()].',
    });
  }
  if (typeof allowDequant !== 'boolean')
    throw new LowbitError('ERR_BAD_ARGUMENT', `allowDequant is ${String(allowDequant)}, expected true or false`, {
      details: { option: 'allowDequant' },
    });
  if (!Array.isArray(codecs))
    throw new LowbitError('ERR_BAD_ARGUMENT', 'codecs is no list', { hint: 'Pass a list of codecs.', details: { option: 'codecs' } });
  const names = backends.map(({ name }) => name);
  if (new Set(names).size !== names.length)
    throw new LowbitError('ERR_BAD_ARGUMENT', `two backends have one name: ${names.join(', ')}`, {
      hint: 'Give one of them another, as in referenceBackend({ name }).',
    });
  const other = backends.find(({ spec }) => spec !== 1);
  if (other !== undefined)
    throw new LowbitError(
      'ERR_BACKEND_UNAVAILABLE',
      `backend '${other.name}' keeps version ${String(other.spec)} of the contract (spec), this core knows version 1`,
      {
        hint: 'Install releases of the backend and of @lowbit/core that belong together.',
        details: { backend: other.name, spec: other.spec },
      },
    );
  const candidates: Candidate[] = [];
  for (const provider of backends) candidates.push({ provider, probe: await probe(provider) });
  const runtime = new BackendRuntime(candidates, codecs, allowDequant);
  await runtime.backend();
  return runtime;
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function probe(provider: BackendProvider): Promise<Probe> {
  try {
    return await provider.probe();
  } catch (error) {
    return { ok: false, reason: `probing failed: ${reason(error)}` };
  }
}

class BackendRuntime implements Runtime {
  readonly codecs: readonly FormatCodec[];
  readonly allowDequant: boolean;
  readonly #candidates: readonly Candidate[];
  #disposed = false;

  constructor(candidates: readonly Candidate[], codecs: readonly FormatCodec[], allowDequant: boolean) {
    this.#candidates = candidates;
    this.codecs = codecs;
    this.allowDequant = allowDequant;
  }

  get backends(): readonly string[] {
    return this.#candidates.map(({ provider }) => provider.name);
  }

  async backend(name?: string): Promise<Backend> {
    this.#check();
    const failures: BackendReport[] = [];
    for (const candidate of this.#candidates) {
      if (name !== undefined && candidate.provider.name !== name) continue;
      const opened = await this.#open(candidate);
      if ('ops' in opened) return opened;
      failures.push(opened);
    }
    const what =
      name === undefined
        ? 'no backend is available'
        : failures.length > 0
          ? `backend '${name}' is not available`
          : `there is no backend '${name}'`;
    throw new LowbitError('ERR_BACKEND_UNAVAILABLE', failures.length > 0 ? `${what}\n${formatExplanation(failures)}` : what, {
      hint: failures.find(({ hint }) => hint)?.hint ?? `Backends of this runtime: ${this.backends.join(', ') || '(none)'}.`,
      details: { explanation: failures },
    });
  }

  async explain(linears: readonly LinearQuestion[], program?: Program): Promise<Explanation> {
    this.#check();
    const reports: BackendReport[] = [];
    for (const candidate of this.#candidates) reports.push(await this.#report(candidate, linears, program));
    return reports;
  }

  /** What one backend says. Opens it. */
  async #report(candidate: Candidate, linears: readonly LinearQuestion[], program: Program | undefined): Promise<BackendReport> {
    const backend = await this.#open(candidate);
    if (!('ops' in backend)) return backend;
    return {
      backend: backend.name,
      available: true,
      detail: backend.device.label,
      linears: linears.map(({ allowDequant = this.allowDequant, ...request }) =>
        answerOf(backend, { use: 'linear', ...request }, { allowDequant }),
      ),
      missingOps: missingOps(backend, program),
    };
  }

  async select(linears: readonly LinearQuestion[], program?: Program): Promise<Backend> {
    this.#check();
    const reports: BackendReport[] = [];
    for (const candidate of this.#candidates) {
      const report = await this.#report(candidate, linears, program);
      if (fits(report)) return this.backend(report.backend); // backends after it stay closed
      reports.push(report);
    }
    throw unfit(reports);
  }

  async linear(
    weight: QuantizedTensor,
    { backend: name, ...options }: PrepareOptions & { readonly backend?: string | undefined } = {},
  ): Promise<QuantizedLinear> {
    const { use = 'linear', offloadMeta = false } = options;
    const backend = await linearBackend(this, { format: weight.format, shape: weight.shape, use, offloadMeta }, name);
    return backend.prepare(weight, options);
  }

  routine(name: string): Routine | undefined {
    for (const { opened } of this.#candidates) {
      const found = opened?.routines?.get(name);
      if (found) return found;
    }
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await disposeAll(
      this.#candidates.map((candidate) => async () => {
        // A backend that failed to open has nothing to dispose.
        const backend = await candidate.backend?.catch(() => undefined);
        await backend?.[Symbol.asyncDispose]();
      }),
    );
  }

  /** The backend, or the report of why there is none. */
  async #open(candidate: Candidate): Promise<Backend | BackendReport> {
    const { provider, probe } = candidate;
    const failed = { backend: provider.name, available: false, linears: [], missingOps: [] } as const;
    if (!probe.ok) return { ...failed, detail: probe.reason, hint: probe.hint };
    candidate.backend ??= provider.open({ codecs: this.codecs });
    try {
      candidate.opened = await candidate.backend;
      return candidate.opened;
    } catch (error) {
      return { ...failed, detail: `opening failed: ${reason(error)}` };
    }
  }

  #check(): void {
    if (this.#disposed) throw disposedError('the runtime');
  }
}

/** The error of a selection that found nothing. */
function unfit(explanation: Explanation): LowbitError {
  const runs = explanation.filter(({ available, missingOps }) => available && missingOps.length === 0);
  const table = formatExplanation(explanation);
  if (runs.length === 0) {
    const some = explanation.some(({ available }) => available);
    return new LowbitError(
      'ERR_BACKEND_UNAVAILABLE',
      `no backend ${some ? 'runs all operations of this program' : 'is available'}\n${table}`,
      {
        hint: 'Add a backend to createRuntime({ backends }); referenceBackend() runs everything, slowly.',
        details: { explanation },
      },
    );
  }
  const expandable = runs.some(({ linears }) => linears.every(({ support }) => support.level !== 'none'));
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `no backend supports every format asked for\n${table}`, {
    hint: expandable
      ? 'Pass allowDequant: true to let a backend expand the weights to floats.'
      : 'Add a backend that reads these formats; referenceBackend() reads all, slowly.',
    details: { explanation },
  });
}
