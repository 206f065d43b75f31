// Locks that all tabs of a site see, and that end with the tab that holds them.

import { LowbitError } from '@lowbit/core';
import { browser } from './dom.ts';

export interface TabLock {
  /** False if another tab took it away. */
  readonly held: boolean;
  release(): Promise<void>;
}

/** Takes a lock, if it is free; undefined if another has it. */
export function tryLock(name: string, mode: 'exclusive' | 'shared'): Promise<TabLock | undefined> {
  const locks = browser.navigator?.locks;
  if (!locks) {
    throw new LowbitError('ERR_IO', 'this page has no locks, which keep tabs from writing the same model', {
      hint: 'Open the page over https or localhost.',
    });
  }
  return new Promise((resolve, reject) => {
    let held = true;
    const ended: Promise<void> = locks
      .request(name, { mode, ifAvailable: true }, (lock) => {
        if (lock === null) {
          resolve(undefined);
          return;
        }
        return new Promise<void>((done) => {
          resolve({
            get held() {
              return held;
            },
            async release() {
              held = false;
              done();
              await ended.catch(() => {});
            },
          });
        });
      })
      .catch((error) => {
        held = false;
        reject(error);
      });
  });
}
