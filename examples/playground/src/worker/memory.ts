// How much memory a tab may count on. Browsers say little, and for good reasons.

/** What the tab of a phone gets before the system ends it. */
const UNKNOWN = 1.5 * 2 ** 30;

/** Half of the device's memory where the browser tells it (in coarse steps), else what a phone gives. */
export function availableMemory(): { readonly available: number; readonly measured: boolean } {
  const gigabytes = (navigator as { readonly deviceMemory?: number }).deviceMemory;
  return gigabytes === undefined ? { available: UNKNOWN, measured: false } : { available: (gigabytes / 2) * 2 ** 30, measured: true };
}
