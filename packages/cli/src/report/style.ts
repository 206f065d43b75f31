// The style sheet of a report: no fonts, images or scripts, light and dark by what the reader has set.

/** Light to dark of one hue; in the dark theme the order is turned round. */
const LIGHT = ['#fff3d6', '#ffdf9e', '#ffc266', '#f99b45', '#e56f35', '#bd4528', '#83271f'];

const shades = (colors: readonly string[]): string => colors.map((color, i) => `.s${i}{fill:${color}}.b${i}{background:${color}}`).join('');

export const STYLE: string = `:root{color-scheme:light dark;--ink:#1c1b1a;--soft:#5c5852;--paper:#fdfcfa;--line:#ded9d0;--own:#b3341f;--point:#33688f;--mark:#fde2b3}
@media(prefers-color-scheme:dark){:root{--ink:#ece8e1;--soft:#a9a399;--paper:#191817;--line:#3d3a36;--own:#ff8a5c;--point:#7fb4da;--mark:#5b3f16}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .5rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.4rem 0;overflow-wrap:anywhere}
.soft,.legend,summary{color:var(--soft);font-size:.9rem}
svg{width:100%;height:auto;display:block}
svg.fixed{width:auto}
.scroll>svg:not(.fixed){min-width:34rem}
svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--line)}
.hull{fill:none;stroke:var(--soft);stroke-dasharray:4 3}
.point{fill:var(--point)}
.own{fill:var(--own)}
.bar{fill:var(--point)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th[scope=row]{font-weight:500}
pre{overflow-x:auto;background:color-mix(in srgb,var(--line) 40%,transparent);padding:.75rem;border-radius:6px;font-size:.85rem;max-height:24rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
.pair>div{border-left:3px solid var(--line);padding-left:.75rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere}
mark{background:var(--mark);color:inherit}
.chip{display:inline-block;width:1.1rem;height:.8rem}
@media(max-width:40rem){.pair{grid-template-columns:1fr}th,td{padding-right:.4rem}}
${shades(LIGHT)}
@media(prefers-color-scheme:dark){${shades([...LIGHT].reverse())}}
@media print{pre{max-height:none}}`;
