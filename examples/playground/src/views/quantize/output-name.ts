// What the result is called, and whether it takes the place of another.

import { find } from '../../dom.ts';
import type { Bits, Method } from '../../methods.ts';
import type { App } from '../../state.ts';

export interface OutputName {
  readonly text: string;
  /** Whether a saved model of that name may be replaced. */
  readonly replace: boolean;
  /** Takes the place of a name that nobody has typed. */
  suggest(name: string): void;
  /** Looks again whether there is a model of that name. */
  showTaken(): void;
}

export function createOutputName(app: App): OutputName {
  const name = find<HTMLInputElement>('name');
  const replaceRow = find('replace-row');
  const replace = find<HTMLInputElement>('replace');
  let suggested = '';

  function showTaken(): void {
    const taken = app.library?.models.some((model) => model.name === name.value && model.state === 'whole') ?? false;
    replaceRow.hidden = !taken;
    if (!taken) replace.checked = false;
  }
  name.addEventListener('input', showTaken);

  return {
    get text() {
      return name.value;
    },
    get replace() {
      return replace.checked;
    },
    suggest(next) {
      if (name.value === '' || name.value === suggested) name.value = next;
      suggested = next;
      showTaken();
    },
    showTaken,
  };
}

export function suggestName(label: string, { method, bits }: { readonly method: Method; readonly bits: Bits }): string {
  const plain = label
    .replace(/^.*\//, '')
    .replace(/[^A-Za-z0-9_.-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '');
  return `${(plain || 'model').slice(0, 80)}-${method === 'hqq' || method === 'higgs' ? `${method}${bits}` : method}`;
}
