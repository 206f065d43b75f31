// Names from files in error messages.

/** A string from a file, fit for an error message: quoted, control characters escaped, at most 200 characters. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);
}
