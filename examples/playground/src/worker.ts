// The worker: it alone reads weights, quantizes, and runs the model, so that the page stays responsive.

import type { Calls, FromWorker, Progress, ToWorker } from './protocol.ts';
import { toFailure } from './worker/failure.ts';
import { handlers } from './worker/handlers.ts';

const running = new Map<number, AbortController>();
const scope = self as unknown as { postMessage(message: FromWorker): void };

self.addEventListener('message', async ({ data }: MessageEvent<ToWorker>) => {
  const { id } = data;
  if ('cancel' in data) {
    running.get(id)?.abort();
    return;
  }
  const controller = new AbortController();
  running.set(id, controller);
  const context = { signal: controller.signal, report: (progress: Progress) => scope.postMessage({ id, progress }) };
  try {
    const handle = handlers[data.call] as (args: unknown, context: unknown) => Promise<Calls[keyof Calls][1]>;
    scope.postMessage({ id, result: await handle(data.args, context) });
  } catch (error) {
    scope.postMessage({ id, failure: toFailure(error, controller.signal.aborted) });
  } finally {
    running.delete(id);
  }
});
