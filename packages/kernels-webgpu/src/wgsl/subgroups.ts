// What invocations of a subgroup do together. Nothing is assumed of subgroups: they may be of any size (WGSL: a power of two from 4 to 128), have idle members,
// and be made of any invocations of a workgroup, so an invocation is known by its rank among those that are there. Sums, largest and smallest numbers
// are all that is used: shuffles are broken on MoltenVK with AMD (ggml-org/llama.cpp issue 20029), and Intel's drivers leave members idle (17356 there).
// They stand after a barrier and outside of branches, where members that went different ways have come together again.
//
// Sums are rounded in the order of the device. As long as it makes the same subgroups each time, and all that are known do, the same inputs give the same bytes.

/** `rank` and `width`: the place of an invocation in its subgroup, and how many there are. */
export const MEMBERS = `
  let rank = subgroupExclusiveAdd(1u);
  let width = subgroupAdd(1u);`;

/** Of `size` numbers in `name`, one for a subgroup in the place of some member and `nothing` in the others, what they come to: the same for all. */
function folded(
  name: string,
  size: number,
  { fold, nothing }: { readonly fold: (a: string, b: string) => string; readonly nothing: string },
): string {
  // As many turns for each member, whatever the width.
  return `
  for (var i = 0u; i < ${size}u; i += width) { value = ${fold('value', `select(${nothing}, ${name}[min(i + rank, ${size - 1}u)], i + rank < ${size}u)`)}; }`;
}

/** As `reductions` of kernel.ts, with two barriers in place of eight. */
export function subgroupReductions(size: number): string {
  const reduction = (name: string, call: string, fold: (a: string, b: string) => string, nothing: string): string => `
fn ${name}(mine: f32, lid: u32) -> f32 {
  workgroupBarrier();${MEMBERS}
  let together = ${call}(mine);
  reduced[lid] = select(${nothing}, together, rank == 0u);
  workgroupBarrier();
  var value = ${nothing};${folded('reduced', size, { fold, nothing })}
  return ${call}(value);
}`;
  return `
var<workgroup> reduced: array<f32, ${size}>;${reduction('sum_of_all', 'subgroupAdd', (a, b) => `${a} + ${b}`, '0.0')}${reduction('largest_of_all', 'subgroupMax', (a, b) => `max(${a}, ${b})`, '-3.4028234e38')}`;
}

/**
 * Rows of weights shared out to the subgroups of a workgroup of `size`: each row to a team of one subgroup or, where there are many small ones, of several
 * (`split`). With fewer subgroups than rows a team has several rows, one in each turn: row `turn * teams + index`, if that is below `rows`.
 */
export function teams(size: number, rows: number): string {
  const words = size / 32;
  return `
// Bits of the first invocation of each subgroup: subgroups are numbered by them.
var<workgroup> firsts: array<atomic<u32>, ${words}>;
struct Team { rank: u32, width: u32, index: u32, teams: u32, part: u32, split: u32 }
fn team_of(lid: u32) -> Team {${MEMBERS}
  let first = subgroupMin(lid);
  if (rank == 0u) { atomicOr(&firsts[first / 32u], 1u << (first % 32u)); }
  workgroupBarrier();
  var count = 0u;
  var before = 0u;
  for (var i = 0u; i < ${words}u; i++) {
    let bits = atomicLoad(&firsts[i]);
    count += countOneBits(bits);
    let lower = select(0u, bits & ((1u << (first % 32u)) - 1u), i == first / 32u);
    before += countOneBits(select(lower, bits, i < first / 32u));
  }
  let split = max(1u, count / ${rows}u);
  return Team(rank, width, before / split, count / split, before % split, split);
}`;
}
