// Settings, plan, the work itself, and what came of it.

import { CallError } from '../client.ts';
import { find } from '../dom.ts';
import { announce, clearError, showError } from '../notices.ts';
import type { App } from '../state.ts';
import { showPlan } from './plan.ts';
import { createOutputName, suggestName } from './quantize/output-name.ts';
import { hideResult, showResult } from './quantize/result.ts';
import { createSettings } from './quantize/settings.ts';
import { createWorkBar } from './quantize/work.ts';

export function createQuantize(app: App): { replan(): Promise<void> } {
  const plan = find('plan');
  const planError = find('plan-error');
  const start = find<HTMLButtonElement>('quantize');
  const error = find('quantize-error');
  const settings = createSettings(() => void replan());
  const name = createOutputName(app);
  const work = createWorkBar(() => running?.abort());
  let planning = 0;
  let running: AbortController | undefined;

  async function replan(): Promise<void> {
    const { chosen } = app;
    const turn = ++planning;
    clearError(error);
    clearError(planError);
    start.disabled = true;
    if (!chosen) {
      plan.replaceChildren();
      return;
    }
    name.suggest(suggestName(chosen.facts.label, settings.chosen));
    try {
      const made = await app.call('plan', { settings: settings.chosen });
      if (turn !== planning) return; // settings changed meanwhile
      showPlan(plan, made, plan.querySelector('details')?.open ?? false);
      start.disabled = running !== undefined;
    } catch (problem) {
      if (turn !== planning) return;
      plan.replaceChildren();
      showError(planError, problem);
    }
  }

  find<HTMLFormElement>('settings').addEventListener('submit', async (event) => {
    event.preventDefault();
    if (running || !app.chosen) return;
    running = new AbortController();
    start.disabled = true;
    clearError(error);
    hideResult();
    work.begin();
    try {
      const what = { settings: settings.chosen, name: name.text, replace: name.replace };
      const done = await app.call('quantize', what, { signal: running.signal, onProgress: work.onProgress });
      work.end();
      await app.refresh();
      showResult(app, done);
    } catch (problem) {
      work.end();
      await app.refresh();
      showFailure(problem);
      start.focus();
    } finally {
      running = undefined;
      start.disabled = !app.chosen;
      name.showTaken();
    }
  });

  function showFailure(problem: unknown): void {
    if (problem instanceof CallError && problem.aborted) {
      announce('Cancelled.');
      find('work-text').textContent = '';
    } else if (problem instanceof CallError && problem.code === 'ERR_OUTPUT_EXISTS') {
      const { code, message } = problem;
      showError(error, new CallError({ code, message, hint: 'Choose another name, or tick the box that replaces it.', aborted: false }));
    } else showError(error, problem);
  }

  return { replan };
}
