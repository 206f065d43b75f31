// Settings, plan, the work itself, and what came of it.

import { CallError } from '../client.ts';
import { button, find, html } from '../dom.ts';
import { type Bits, METHODS, type Method, type Settings } from '../methods.ts';
import { announce, clearError, showError } from '../notices.ts';
import type { Quantized } from '../protocol.ts';
import type { App } from '../state.ts';
import { bytesText, percentText, secondsText } from '../text.ts';
import { errorPlot } from './error-plot.ts';
import { showPlan } from './plan.ts';

export function createQuantize(app: App): { replan(): Promise<void> } {
  const form = find<HTMLFormElement>('settings');
  const method = find<HTMLSelectElement>('method');
  const bitsField = find('bits');
  const plan = find('plan');
  const planError = find('plan-error');
  const name = find<HTMLInputElement>('name');
  const replaceRow = find('replace-row');
  const replace = find<HTMLInputElement>('replace');
  const start = find<HTMLButtonElement>('quantize');
  const work = find('work');
  const result = find('result');
  const error = find('quantize-error');
  let settings: Settings = { method: 'hqq', bits: 4 };
  let named = '';
  let planning = 0;
  let running: AbortController | undefined;

  method.append(...Object.entries(METHODS).map(([value, { label }]) => html('option', { value }, label)));
  showSettings();

  function showSettings(): void {
    const { bits, about } = METHODS[settings.method];
    method.value = settings.method;
    find('method-about').textContent = about;
    const choices = bits.map((value) => {
      const input = html('input', { type: 'radio', name: 'bits', value, checked: value === settings.bits });
      input.addEventListener('change', () => change({ ...settings, bits: value }));
      return html('label', {}, input, html('span', {}, String(value)));
    });
    bitsField.replaceChildren(bitsField.firstElementChild!, html('div', { class: 'segment-row' }, ...choices));
  }

  function change(next: Settings): void {
    const { bits } = METHODS[next.method];
    const moved = next.method !== settings.method;
    settings = { ...next, bits: bits.includes(next.bits) ? next.bits : bits.includes(4) ? 4 : bits[0]! };
    if (moved) showSettings();
    void replan();
  }
  method.addEventListener('change', () => change({ ...settings, method: method.value as Method }));

  async function replan(): Promise<void> {
    const { chosen } = app;
    const turn = ++planning;
    clearError(error);
    clearError(planError);
    if (!chosen) {
      start.disabled = true;
      plan.replaceChildren();
      return;
    }
    const suggestion = suggestName(chosen.facts.label, settings);
    if (name.value === '' || name.value === named) name.value = suggestion;
    named = suggestion;
    showTaken();
    start.disabled = true;
    try {
      const made = await app.call('plan', { settings });
      if (turn !== planning) return; // settings changed meanwhile
      showPlan(plan, made, plan.querySelector('details')?.open ?? false);
      start.disabled = running !== undefined;
    } catch (problem) {
      if (turn !== planning) return;
      plan.replaceChildren();
      showError(planError, problem);
    }
  }

  function showTaken(): void {
    const taken = app.library?.models.some((model) => model.name === name.value && model.state === 'whole') ?? false;
    replaceRow.hidden = !taken;
    if (!taken) replace.checked = false;
  }
  name.addEventListener('input', showTaken);

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (running || !app.chosen) return;
    running = new AbortController();
    start.disabled = true;
    clearError(error);
    result.hidden = true;
    work.hidden = false;
    showProgress('Starting…', 0);
    find('cancel').focus();
    announce('Quantizing.');
    let quarter = 0;
    try {
      const done = await app.call(
        'quantize',
        { settings, name: name.value, replace: replace.checked },
        {
          signal: running.signal,
          onProgress(progress) {
            if (progress.kind !== 'progress') return;
            const part = progress.total > 0 ? progress.done / progress.total : 0;
            showProgress(progress.item ?? progress.phase, part);
            if (Math.floor(4 * part) <= quarter || part >= 1) return;
            quarter = Math.floor(4 * part);
            announce(`${25 * quarter} percent.`);
          },
        },
      );
      work.hidden = true;
      await app.refresh();
      showResult(done);
    } catch (problem) {
      work.hidden = true;
      await app.refresh();
      if (problem instanceof CallError && problem.aborted) {
        announce('Cancelled.');
        find('work-text').textContent = '';
      } else if (problem instanceof CallError && problem.code === 'ERR_OUTPUT_EXISTS') {
        const { code, message } = problem;
        showError(error, new CallError({ code, message, hint: 'Choose another name, or tick the box that replaces it.', aborted: false }));
      } else showError(error, problem);
      start.focus();
    } finally {
      running = undefined;
      start.disabled = !app.chosen;
      showTaken();
    }
  });
  find('cancel').addEventListener('click', () => {
    showProgress('Cancelling…', undefined);
    running?.abort();
  });

  function showProgress(text: string, part: number | undefined): void {
    find('work-text').textContent = part === undefined ? text : `${Math.floor(100 * part)} %  ${text}`;
    if (part !== undefined) find<HTMLProgressElement>('work-bar').value = part;
  }

  function showResult(done: Quantized): void {
    const talk = button('Talk to it', { class: 'primary' }, () => app.talk({ kind: 'saved', name: done.name }));
    result.replaceChildren(
      html('h3', { tabindex: -1 }, `Saved as ${done.name}`),
      html(
        'p',
        {},
        `${done.linears.length} layers in ${secondsText(done.ms)}, ${bytesText(done.bytes)} with its tokenizer. Weights differ by ${percentText(done.error)}.`,
        done.resumed > 0 && ` ${done.resumed} steps were done by an earlier run.`,
      ),
      errorPlot(done.linears),
      html('div', { class: 'actions' }, talk),
    );
    result.hidden = false;
    announce(`Done: ${done.linears.length} layers quantized in ${secondsText(done.ms)}, saved as ${done.name}.`);
    result.querySelector('h3')?.focus();
  }

  return { replan };
}

function suggestName(label: string, { method, bits }: { readonly method: Method; readonly bits: Bits }): string {
  const plain = label
    .replace(/^.*\//, '')
    .replace(/[^A-Za-z0-9_.-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '');
  return `${(plain || 'model').slice(0, 80)}-${method === 'hqq' || method === 'higgs' ? `${method}${bits}` : method}`;
}
