// @ts-check
// The grids of HIGGS: makes packages/layouts/src/higgs-points.ts of tools/higgs-grids.json, and checks the numbers by computing them again.
//
//   node tools/higgs-grids.mjs            checks all grids and prints a table
//   node tools/higgs-grids.mjs --write    writes the source file
//
// p = 1: Lloyd-Max in float64, which has one solution. p = 2: k-means has many local optima, so the shipped points are checked instead: their mean squared
// error and how far they are from the centroids of their cells, on a square quadrature grid; and what Lloyd steps from there would still gain.
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** @typedef {{ bits: number, p: number, mse: number, points: (number | [number, number])[] }} Grid */

const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url));
const OUT = here('../packages/layouts/src/higgs-points.ts');

/** @returns {Grid[]} */
export function sourceGrids() {
  return JSON.parse(readFileSync(here('higgs-grids.json'), 'utf8')).grids;
}

/** @param {readonly Grid[]} grids @returns {string} the generated module */
export function generated(grids) {
  const tables = grids.map(({ bits, p, points }) => {
    const text = Buffer.from(Float32Array.from(points.flat()).buffer).toString('base64');
    const lines = Array.from({ length: Math.ceil(text.length / 140) }, (_, i) => `    '${text.slice(140 * i, 140 * (i + 1))}'`);
    return `  '${p}-${2 ** (bits * p)}':\n${lines.join(' +\n')},`;
  });
  return `// Made by tools/higgs-grids.mjs from tools/higgs-grids.json: change that, not this.

/** Points of the grids by dimension and number, in the order that codes index them: float32, little-endian, in base64. */
// biome-ignore format: a table
export const HIGGS_POINTS: Readonly<Record<string, string>> = {
${tables.join('\n')}
};
`;
}

/** Density of the standard normal distribution. @param {number} x */
const density = (x) => (Math.abs(x) > 38 ? 0 : Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI));

/** Distribution function, by its series. @param {number} x */
function cumulative(x) {
  if (x > 9) return 1;
  if (x < -9) return 0;
  let term = x;
  let sum = x;
  for (let k = 3; Math.abs(term) > 1e-18 * Math.abs(sum) && k < 500; k += 2) {
    term *= (x * x) / k;
    sum += term;
  }
  return 0.5 + sum * density(x);
}

/** @param {readonly number[]} points ascending @returns {readonly [number, number][]} the cells of their midpoints */
function intervals(points) {
  const bounds = [-Infinity, ...points.slice(1).map((g, i) => (g + points[i]) / 2), Infinity];
  return points.map((_, i) => [bounds[i], bounds[i + 1]]);
}

/** Mean squared error of a scalar grid for a standard normal source. @param {readonly number[]} points */
export function scalarMse(points) {
  const times = (/** @type {number} */ x) => (Number.isFinite(x) ? x * density(x) : 0);
  return intervals(points).reduce((sum, [a, b], i) => {
    const mass = cumulative(b) - cumulative(a);
    const first = density(a) - density(b);
    const second = mass + times(a) - times(b);
    return sum + second - 2 * points[i] * first + points[i] ** 2 * mass;
  }, 0);
}

/** The Lloyd-Max quantizer of n levels for a standard normal source. @param {number} n */
export function lloydMax(n) {
  const middle = (n - 1) / 2;
  let points = Array.from({ length: n }, (_, i) => (2.5 * (i - middle)) / middle);
  for (let step = 0; step < 200_000; step++) {
    const next = intervals(points).map(([a, b]) => (density(a) - density(b)) / (cumulative(b) - cumulative(a)));
    const moved = Math.max(...next.map((g, i) => Math.abs(g - points[i])));
    points = next;
    if (moved < 1e-14) break;
  }
  return points;
}

/**
 * One pass over a square quadrature grid of the plane: the error per weight of a grid of pairs, the centroids and masses of its cells.
 * @param {readonly (readonly [number, number])[]} points
 * @param {number} spacing
 */
export function planeStatistics(points, spacing) {
  const n = points.length;
  const gx = Float64Array.from(points, ([x]) => x);
  const gy = Float64Array.from(points, ([, y]) => y);
  const sums = { mass: new Float64Array(n), x: new Float64Array(n), y: new Float64Array(n) };
  const steps = Math.round(6.5 / spacing);
  let error = 0;
  let last = 0;
  for (let i = -steps; i <= steps; i++) {
    const y = i * spacing;
    for (let j = -steps; j <= steps; j++) {
      const x = j * spacing;
      let nearest = last;
      let least = (x - gx[last]) ** 2 + (y - gy[last]) ** 2; // a neighbour's answer, to begin with a small one
      for (let c = 0; c < n; c++) {
        const dx = x - gx[c];
        const dy = y - gy[c];
        const distance = dx * dx + dy * dy;
        if (distance < least) {
          least = distance;
          nearest = c;
        }
      }
      last = nearest;
      const weight = density(x) * density(y) * spacing * spacing;
      error += weight * least;
      sums.mass[nearest] += weight;
      sums.x[nearest] += weight * x;
      sums.y[nearest] += weight * y;
    }
  }
  /** @type {[number, number][]} */
  const centroids = points.map((point, c) =>
    sums.mass[c] > 0 ? [sums.x[c] / sums.mass[c], sums.y[c] / sums.mass[c]] : [point[0], point[1]],
  );
  const squares = centroids.map(([x, y], c) => (x - gx[c]) ** 2 + (y - gy[c]) ** 2);
  return {
    mse: error / 2,
    centroids,
    /** Root mean square of what a point is off the centroid of its cell, per coordinate: 0 for a stationary grid. */
    offCentre: Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / (2 * n)),
    /** Entropy of the codes, bits a weight. */
    entropy: sums.mass.reduce((sum, mass) => (mass > 0 ? sum - mass * Math.log2(mass) : sum), 0) / 2,
  };
}

/** Entropy of the codes of a scalar grid, in bits. @param {readonly number[]} points */
function scalarEntropy(points) {
  return intervals(points).reduce((sum, [a, b]) => {
    const mass = cumulative(b) - cumulative(a);
    return sum - mass * Math.log2(mass);
  }, 0);
}

/** @param {boolean} ok @param {string} what */
function report(ok, what) {
  if (ok) return;
  console.error(`FAILED: ${what}`);
  process.exitCode = 1;
}

function checkAll() {
  console.log(
    '| bits | p | points | error a weight | bound 4^-bits | ratio | dB above | entropy, bits | ratio at the entropy | recomputed |',
  );
  console.log('|---|---|---|---|---|---|---|---|---|---|');
  for (const { bits, p, mse: stated, points } of sourceGrids()) {
    let [mse, entropy, note] = [0, 0, ''];
    if (p === 1) {
      const scalar = /** @type {number[]} */ (points);
      const solved = lloydMax(scalar.length);
      const off = Math.max(...solved.map((g, i) => Math.abs(g - scalar[i])));
      [mse, entropy, note] = [scalarMse(scalar), scalarEntropy(scalar), `Lloyd-Max: points within ${off.toExponential(1)}`];
      report(off < 1e-6, `${bits} bits, p 1: ${off} from the Lloyd-Max points`);
      report(Math.abs(mse - stated) < 1e-8, `${bits} bits, p 1: error ${mse}, stated ${stated}`);
    } else {
      const pairs = /** @type {[number, number][]} */ (points);
      const fine = planeStatistics(pairs, 0.01);
      let moved = fine.centroids;
      for (let step = 1; step < 60; step++) moved = planeStatistics(moved, 0.02).centroids;
      const gain = 1 - planeStatistics(moved, 0.01).mse / fine.mse;
      [mse, entropy] = [fine.mse, fine.entropy];
      note = `${fine.offCentre.toFixed(4)} from the centroids; 60 Lloyd steps gain ${(100 * gain).toFixed(3)} %`;
      report(Math.abs(mse - stated) < 1e-7, `${bits} bits, p 2: error ${mse}, stated ${stated}`);
      report(fine.offCentre < 0.003, `${bits} bits, p 2: ${fine.offCentre} from the centroids`);
      report(gain < 1e-3, `${bits} bits, p 2: 60 Lloyd steps gain ${gain}`);
    }
    const bound = 4 ** -bits;
    const ratio = mse / bound;
    const row = [bits, p, points.length, mse.toFixed(9), bound, ratio.toFixed(3), (10 * Math.log10(ratio)).toFixed(2)];
    console.log(`| ${[...row, entropy.toFixed(4), (mse / 4 ** -entropy).toFixed(3), note].join(' | ')} |`);
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  if (process.argv.includes('--write')) writeFileSync(OUT, generated(sourceGrids()));
  else {
    if (readFileSync(OUT, 'utf8') !== generated(sourceGrids())) report(false, `${OUT} is not what --write would make`);
    checkAll();
  }
}
