// What happened, for eyes and for screen readers.

import { CallError } from './client.ts';
import { find, html } from './dom.ts';

/** Says something politely to screen readers; what is seen says it elsewhere. */
export function announce(text: string): void {
  find('status').textContent = text;
}

/** Shows why something failed, with what to do, in `place`. */
export function showError(place: HTMLElement, error: unknown): void {
  const { message, hint, code } =
    error instanceof CallError ? error : { message: String((error as Error).message ?? error), hint: undefined, code: 'ERR_UNEXPECTED' };
  place.replaceChildren(
    html('p', { class: 'notice-title' }, /[.!?]$/.test(message) ? message : `${message}.`),
    ...(hint === undefined ? [] : [html('p', {}, hint)]),
    html('p', { class: 'notice-code' }, code),
  );
  place.hidden = false;
}

export function clearError(place: HTMLElement): void {
  place.hidden = true;
  place.replaceChildren();
}
