// Options and configurations are plain records: a Map or an instance of a class has its settings where nothing here would look.

/** True for what an object literal or JSON.parse makes, of any realm. */
export function isPlainRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}
