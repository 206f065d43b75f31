// Which method and how many bits.

import { find, html } from '../../dom.ts';
import { METHODS, type Method, type Settings } from '../../methods.ts';

export interface SettingsForm {
  /** What is chosen now. */
  readonly chosen: Settings;
}

/** `onChange` is called after a change. */
export function createSettings(onChange: () => void): SettingsForm {
  const method = find<HTMLSelectElement>('method');
  const bitsField = find('bits');
  const form: { chosen: Settings } = { chosen: { method: 'hqq', bits: 4 } };

  method.append(...Object.entries(METHODS).map(([value, { label }]) => html('option', { value }, label)));
  method.addEventListener('change', () => change({ ...form.chosen, method: method.value as Method }));
  show();

  function show(): void {
    const { bits, about } = METHODS[form.chosen.method];
    method.value = form.chosen.method;
    find('method-about').textContent = about;
    const choices = bits.map((value) => {
      const input = html('input', { type: 'radio', name: 'bits', value, checked: value === form.chosen.bits });
      input.addEventListener('change', () => change({ ...form.chosen, bits: value }));
      return html('label', {}, input, html('span', {}, String(value)));
    });
    bitsField.replaceChildren(bitsField.firstElementChild!, html('div', { class: 'segment-row' }, ...choices));
  }

  function change(next: Settings): void {
    const { bits } = METHODS[next.method];
    const moved = next.method !== form.chosen.method;
    form.chosen = { ...next, bits: bits.includes(next.bits) ? next.bits : bits.includes(4) ? 4 : bits[0]! };
    if (moved) show();
    onChange();
  }

  return form;
}
