// The exact solver: one option of each decision, the least cost, no more bits than there are. (In the books: the multiple-choice knapsack problem.)
//
// Relaxed to mixtures of options it is solved by taking improvements in order of loss saved per bit until one does not fit. The rate L of that one
// prices bits: against the options taken until then (the base) another option has the regret r = (its cost - the base's) + L (its bits - the base's) >= 0,
// and no selection costs less than: base cost - L * bits that are left + sum of its regrets. So wherever regrets reach what the best selection known
// loses against that bound, nothing can be gained, and few decisions of a model have any other option below it. Over those runs a dynamic programme
// whose states are (bits, cost) pairs that no other beats, best hopes first, bounded by the rest (after D. Pisinger, "A minimal algorithm for the
// multiple-choice knapsack problem", 1995). It needs no common unit of the bits, which tables and padding leave none of.

import { breather } from '@lowbit/core';
import type { Decision } from './problem.ts';

export interface SolveOptions {
  /** Most states kept of a stage. What is dropped beyond it counts into `bound`. */
  readonly maxStates: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Solution {
  /** Option of each decision. */
  readonly options: readonly number[];
  /** No selection within the budget costs less. Equal to the cost of `options` when proven optimal. */
  readonly bound: number;
}

/** One step along the lower convex hull of a decision's options. */
interface Step {
  readonly decision: number;
  readonly from: number;
  readonly to: number;
  readonly bits: number;
  /** Cost saved per bit; falls along the hull. */
  readonly rate: number;
}

function hullSteps({ options }: Decision, decision: number): readonly Step[] {
  const hull: number[] = [];
  const rate = (from: number, to: number): number => (options[from]!.cost - options[to]!.cost) / (options[to]!.bits - options[from]!.bits);
  for (const index of options.keys()) {
    while (hull.length >= 2 && rate(hull.at(-2)!, hull.at(-1)!) <= rate(hull.at(-1)!, index)) hull.pop();
    hull.push(index);
  }
  return hull.slice(1).map((to, at) => {
    const from = hull[at]!;
    return { decision, from, to, bits: options[to]!.bits - options[from]!.bits, rate: rate(from, to) };
  });
}

/** The relaxed optimum, rounded down, and a selection from going on with whatever fits. */
function relax(all: readonly Decision[], room: number): { readonly base: number[]; readonly greedy: number[]; readonly price: number } {
  const steps = all.flatMap(hullSteps).sort((a, b) => b.rate - a.rate || a.decision - b.decision || a.from - b.from);
  const greedy = all.map(() => 0);
  let base: number[] | undefined;
  let price = 0;
  let left = room;
  for (const { decision, from, to, bits, rate } of steps) {
    if (greedy[decision] !== from) continue; // an earlier step of it did not fit
    if (bits <= left) {
      greedy[decision] = to;
      left -= bits;
    } else if (base === undefined) {
      base = greedy.slice();
      price = rate;
    }
  }
  return { base: base ?? greedy, greedy, price };
}

/** An option beside the base's: differences to it, and the regret. */
interface Detour {
  readonly option: number;
  readonly bits: number;
  readonly cost: number;
  readonly regret: number;
}

/** A decision with detours that may pay. */
interface Stage {
  readonly decision: number;
  readonly detours: readonly Detour[];
}

/** What later stages can do at best: regret per bit taken up or given back, and bits they can give back. */
interface Rest {
  readonly up: number;
  readonly down: number;
  readonly most: number;
}

function restsOf(stages: readonly Stage[], price: number): readonly Rest[] {
  const rests: Rest[] = [{ up: price, down: Number.POSITIVE_INFINITY, most: 0 }];
  for (const { detours } of stages.toReversed()) {
    let { up, down, most } = rests[0]!;
    for (const { bits, regret } of detours) {
      if (bits > 0) up = Math.min(up, regret / bits);
      else if (bits < 0) down = Math.min(down, regret / -bits);
    }
    most += Math.max(0, ...detours.map(({ bits }) => -bits));
    rests.unshift({ up, down, most });
  }
  return rests;
}

/** States of one stage, ascending in bits and descending in cost; both against the base. */
interface States {
  readonly bits: Float64Array;
  readonly cost: Float64Array;
  readonly bound: Float64Array;
  /** State of the stage before, and the detour taken: -1 none. */
  readonly parent: Int32Array;
  readonly detour: Int16Array;
  readonly count: number;
}

function makeStates(capacity: number): { -readonly [K in keyof States]: States[K] } {
  return {
    bits: new Float64Array(capacity),
    cost: new Float64Array(capacity),
    bound: new Float64Array(capacity),
    parent: new Int32Array(capacity),
    detour: new Int16Array(capacity),
    count: 0,
  };
}

/** Only the `most` states with the smallest bounds; the least bound of those dropped. */
function narrow(states: States, most: number): { readonly states: States; readonly dropped: number } {
  if (states.count <= most) return { states, dropped: Number.POSITIVE_INFINITY };
  const order = Uint32Array.from({ length: states.count }, (_, i) => i).sort((a, b) => states.bound[a]! - states.bound[b]! || a - b);
  const dropped = states.bound[order[most]!]!;
  const kept = order.slice(0, most).sort();
  const out = makeStates(most);
  for (const [to, from] of kept.entries()) {
    out.bits[to] = states.bits[from]!;
    out.cost[to] = states.cost[from]!;
    out.bound[to] = states.bound[from]!;
    out.parent[to] = states.parent[from]!;
    out.detour[to] = states.detour[from]!;
  }
  out.count = most;
  return { states: out, dropped };
}

/** The best selection known, against the base: made at a stage from a state of the one before and a detour. */
interface Incumbent {
  cost: number;
  stage: number;
  parent: number;
  detour: number;
}

/** The dynamic programme. `slack`: bits that the base leaves. */
class Search {
  readonly #stages: readonly Stage[];
  readonly #rests: readonly Rest[];
  readonly #slack: number;
  readonly #price: number;
  /** Trace of every stage, for the way back. */
  readonly #trace: { readonly parent: Int32Array; readonly detour: Int16Array }[] = [];
  readonly best: Incumbent;
  /** Least bound of a state that was dropped for want of room. */
  dropped = Number.POSITIVE_INFINITY;

  constructor(stages: readonly Stage[], slack: number, price: number, cost: number) {
    this.#stages = stages;
    this.#rests = restsOf(stages, price);
    this.#slack = slack;
    this.#price = price;
    this.best = { cost, stage: -1, parent: -1, detour: -1 };
  }

  /** Least cost against the base of what a state can become after `stage`. */
  #bound(bits: number, cost: number, stage: number): number {
    const { up, down, most } = this.#rests[stage + 1]!;
    const left = this.#slack - bits;
    // cost + price * bits is the regret so far; what is left over is paid at the price, or taken up at a later stage's regret.
    if (left >= 0) return cost + this.#price * bits + left * up - this.#price * this.#slack;
    return -left > most ? Number.POSITIVE_INFINITY : cost + this.#price * bits - left * down - this.#price * this.#slack;
  }

  async run({ maxStates, signal }: SolveOptions): Promise<void> {
    const breathe = breather();
    let states: States = { ...makeStates(1), count: 1 };
    for (const [at, { detours }] of this.#stages.entries()) {
      if (states.count === 0) break;
      const lists = [{ option: -1, bits: 0, cost: 0 }, ...detours.map(({ bits, cost }, option) => ({ option, bits, cost }))];
      const heads = lists.map(() => 0);
      const next = makeStates(states.count * lists.length);
      let work = 0;
      for (;;) {
        // The next state in order of bits, of equals the cheapest: all lists are sorted.
        let from = -1;
        let bits = Number.POSITIVE_INFINITY;
        let cost = Number.POSITIVE_INFINITY;
        for (let list = 0; list < lists.length; list++) {
          const head = heads[list]!;
          if (head === states.count) continue;
          const b = states.bits[head]! + lists[list]!.bits;
          const c = states.cost[head]! + lists[list]!.cost;
          if (b < bits || (b === bits && c < cost)) [from, bits, cost] = [list, b, c];
        }
        if (from < 0) break;
        this.#take(next, at, { bits, cost, parent: heads[from]!, detour: lists[from]!.option });
        heads[from]!++;
        if ((++work & 0xffff) === 0) {
          await breathe();
          signal?.throwIfAborted();
        }
      }
      await breathe();
      signal?.throwIfAborted();
      const narrowed = narrow(next, maxStates);
      states = narrowed.states;
      this.dropped = Math.min(this.dropped, narrowed.dropped);
      this.#trace.push({ parent: states.parent.slice(0, states.count), detour: states.detour.slice(0, states.count) });
    }
  }

  /** Keeps a state that none before beats and that may lead to something better than the best known. */
  #take(
    states: { -readonly [K in keyof States]: States[K] },
    stage: number,
    { bits, cost, parent, detour }: { readonly bits: number; readonly cost: number; readonly parent: number; readonly detour: number },
  ): void {
    const { count } = states;
    if (count > 0 && cost >= states.cost[count - 1]!) return;
    if (bits <= this.#slack && cost < this.best.cost) Object.assign(this.best, { cost, stage, parent, detour });
    const bound = this.#bound(bits, cost, stage);
    if (!(bound < this.best.cost)) return;
    states.bits[count] = bits;
    states.cost[count] = cost;
    states.bound[count] = bound;
    states.parent[count] = parent;
    states.detour[count] = detour;
    states.count++;
  }

  /** The detours of the best selection, by stage. Undefined where it is the one that was known at first. */
  detours(): ReadonlyMap<number, number> | undefined {
    if (this.best.stage < 0) return undefined;
    const found = new Map<number, number>();
    let { parent, detour } = this.best;
    for (let stage = this.best.stage; stage >= 0; stage--) {
      if (detour >= 0) found.set(stage, detour);
      if (stage === 0) break;
      const trace = this.#trace[stage - 1]!;
      [detour, parent] = [trace.detour[parent]!, trace.parent[parent]!];
    }
    return found;
  }
}

const costOf = (all: readonly Decision[], picks: readonly number[]): number =>
  all.reduce((sum, { options }, i) => sum + options[picks[i]!]!.cost, 0);
const bitsOf = (all: readonly Decision[], picks: readonly number[]): number =>
  all.reduce((sum, { options }, i) => sum + options[picks[i]!]!.bits, 0);

/** Solves for a capacity that holds at least the cheapest options. */
export async function solve(all: readonly Decision[], capacity: number, options: SolveOptions): Promise<Solution> {
  options.signal?.throwIfAborted();
  const least = all.reduce((sum, decision) => sum + decision.options[0]!.bits, 0);
  const { base, greedy, price } = relax(all, capacity - least);
  const baseCost = costOf(all, base);
  const slack = capacity - bitsOf(all, base);
  const known = costOf(all, greedy) - baseCost;
  const reach = known + price * slack;
  const stages: (Stage & { readonly regret: number })[] = [];
  for (const [decision, { options: own }] of all.entries()) {
    const from = own[base[decision]!]!;
    const detours = own.flatMap(({ bits, cost }, option): Detour[] => {
      if (option === base[decision]) return [];
      const [moreBits, moreCost] = [bits - from.bits, cost - from.cost];
      const regret = Math.max(0, moreCost + price * moreBits);
      return regret < reach ? [{ option, bits: moreBits, cost: moreCost, regret }] : [];
    });
    if (detours.length > 0) stages.push({ decision, detours, regret: Math.min(...detours.map(({ regret }) => regret)) });
  }
  stages.sort((a, b) => a.regret - b.regret || a.decision - b.decision);

  const search = new Search(stages, slack, price, known);
  if (price > 0) await search.run(options);
  const detours = search.detours();
  const picks = detours === undefined ? greedy : base.slice();
  for (const [stage, detour] of detours ?? []) picks[stages[stage]!.decision] = stages[stage]!.detours[detour]!.option;
  const bound = search.dropped < search.best.cost ? baseCost + search.dropped : costOf(all, picks);
  return { options: picks, bound };
}
