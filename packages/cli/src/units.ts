// Numbers for people. Sizes are decimal (1 MB = 10^6 bytes), as disks and the Hub count them; exact bytes go into --json.

const STEPS = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

/** `11.5 MB`: three significant digits or whole units. */
export function bytesText(bytes: number): string {
  let value = bytes;
  let step = 0;
  while (value >= 999.5 && step < STEPS.length - 1) {
    value /= 1000;
    step++;
  }
  return `${step === 0 ? value : value.toPrecision(3)} ${STEPS[step]}`;
}

/** `5,770,496`, the same in every locale. */
export function countText(count: number): string {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+(?!\d))/g, ',');
}

/** `5.77 M`: a parameter count in short. */
export function shortCount(count: number): string {
  if (count < 1e3) return String(count);
  const [unit, factor] = count < 1e6 ? ['k', 1e3] : count < 1e9 ? ['M', 1e6] : ['B', 1e9];
  return `${(count / Number(factor)).toPrecision(3)} ${unit}`;
}

/** `0.8 s`, `12 s`, `3:05`, `1:02:05`. */
export function durationText(ms: number): string {
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const two = (n: number): string => String(n).padStart(2, '0');
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Bits per weight: `4.50`. */
export function bitsText(bits: number): string {
  return bits.toFixed(2);
}
