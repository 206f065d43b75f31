// Where the numbers of a bench lie.

const sorted = (list) => [...list].sort((a, b) => a - b);

/** The middle one, of two the higher; NaN of none. */
export const median = (list) => sorted(list)[Math.floor(list.length / 2)] ?? Number.NaN;

/** The one that such a share of the others lies below. */
export const quantile = (list, share) => sorted(list)[Math.round(share * (list.length - 1))];

/** The middle one and those at a quarter and three quarters, to three digits. */
export const spread = (list) => [0.5, 0.25, 0.75].map((share) => Number(quantile(list, share).toPrecision(3)));

/** At a quarter, a half, three quarters. */
export const quartiles = (list) => [0.25, 0.5, 0.75].map((share) => quantile(list, share));
