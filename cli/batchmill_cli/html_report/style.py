"""How the page of a run looks: light, dark, narrow, printed."""

from __future__ import annotations

# Blue, vermilion and bluish green of Okabe and Ito's palette for all kinds of colour vision, with the contrast that
# text needs on either ground; what matters is also said by a shape or in words.
_LIGHT = """
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b2430; --soft: #5b6675; --faint: #e3e7ec; --track: #eef1f4;
  --blue: #0068a8; --blue-area: #5aa5d4; --red: #c14a00; --green: #00755a; --amber: #8a5a00;
  --shade: 0 1px 2px #1b243014;
"""
_DARK = """
  --ground: #11161d; --card: #1a212b; --ink: #e6eaf0; --soft: #9aa7b6; --faint: #2c3643; --track: #232c38;
  --blue: #6cb8ec; --blue-area: #3c7fae; --red: #ff9152; --green: #4fc9a4; --amber: #e8b04a; --shade: none;
"""

STYLE = (
    f":root {{ color-scheme: light dark;{_LIGHT}}}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{{_DARK}}} }}\n"
    f"@media print {{ :root {{ color-scheme: light;{_LIGHT}--ground: #fff; --shade: none; }} }}\n"
    """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main, header, footer { max-width: 62rem; margin: 0 auto; }
h1 { font-size: 1.65rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; margin: .2rem 0 .35rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; font-weight: 650; margin: 0 0 .25rem; }
h2 + p { margin-bottom: 0; }
h3 { font-size: .9rem; font-weight: 600; margin: 1.6rem 0 .5rem; }
figure h3 { margin-bottom: 1.2rem; } figure h3 + .legend { margin-top: -.7rem; }
h3 small { font-weight: 400; color: var(--soft); font-size: inherit; margin-left: .4em; }
p { margin: .3rem 0 .8rem; }
a { color: var(--blue); }
.soft { color: var(--soft); overflow-wrap: anywhere; }
.small { font-size: .86rem; }
.eyebrow { color: var(--soft); font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; margin: 0; }
.state { display: flex; gap: .55rem; align-items: center; font-weight: 600; margin: 1.1rem 0 0; }
.state svg { flex: none; width: 1.25rem; height: 1.25rem; }
.pen { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.state.good { color: var(--green); } .state.bad { color: var(--red); } .state.on { color: var(--blue); }
.state.odd { color: var(--amber); }
code, pre { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 1.35rem 1.5rem 1.2rem;
  margin: 1.25rem 0; box-shadow: var(--shade); }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1.1rem 1.5rem; margin: 0; }
.tiles div { min-width: 0; }
.tiles dt { color: var(--soft); font-size: .84rem; }
.tiles dd { margin: 0; font-size: 1.4rem; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }
.tiles dd small { display: block; font-size: .8rem; font-weight: 400; letter-spacing: 0; color: var(--soft); }
.tiles .bad dd { color: var(--red); }
.bar { display: block; width: 100%; height: 10px; margin: 1.3rem 0 .2rem; border-radius: 5px;
  background: var(--track); }
.bar .ok { fill: var(--blue); } .bar .failed { fill: var(--red); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: .1rem 2.5rem;
  margin: .6rem 0; }
.facts div { display: flex; gap: .75rem; padding: .3rem 0; border-bottom: 1px solid var(--faint); min-width: 0; }
.facts dt { color: var(--soft); flex: 0 0 11.5rem; }
.facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.plot { display: block; width: calc(100% - 64px); margin: 0 8px 30px 56px; overflow: visible;
  font-size: 12px; }
.plot text { fill: var(--soft); }
.plot text.y { text-anchor: end; } .plot text.x { text-anchor: middle; }
.plot text.cut { text-anchor: start; } .plot text.cut.end, .plot text.level { text-anchor: end; }
.plot .grid { stroke: var(--faint); } .plot .base, .plot .tick { stroke: var(--soft); stroke-opacity: .6; }
.plot .cut { stroke: var(--soft); stroke-dasharray: 3 3; } .plot text.cut { stroke: none; }
.plot .level { stroke: var(--soft); stroke-dasharray: 2 4; } .plot text.level { stroke: none; }
path { vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
.area { fill: var(--blue-area); } .area.bad { fill: var(--red); }
.curve { fill: none; stroke: var(--blue); stroke-width: 2; }
.curve.second { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; }
.bars { fill: var(--blue-area); } .bars:hover { fill: var(--blue); }
.track { fill: var(--track); }
.b1 { fill: var(--blue-area); fill-opacity: .3; } .b2 { fill: var(--blue-area); fill-opacity: .6; }
.b3 { fill: var(--blue-area); }
.sign { fill: none; stroke-width: 2; stroke-linecap: round; }
.sign .under { stroke: var(--card); stroke-width: 5; }
.sign.died { stroke: var(--red); } .sign.killed { stroke: var(--amber); fill: var(--card); }
.sign.recycled { stroke: var(--ink); fill: var(--card); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 1.5rem; padding: 0; list-style: none;
  color: var(--soft); font-size: .84rem; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.legend svg { width: 14px; height: 14px; overflow: visible; flex: none; }
.key { display: block; }
.scroll { overflow-x: auto; margin: .5rem 0; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
caption { text-align: left; color: var(--soft); font-size: .84rem; padding-bottom: .35rem; }
th, td { text-align: left; padding: .34rem .7rem; vertical-align: baseline; font-weight: 400;
  border-bottom: 1px solid var(--faint); }
thead th { color: var(--soft); font-size: .82rem; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
tr > :first-child { padding-left: 0; } tr > :last-child { padding-right: 0; }
td, tbody th { min-width: 3rem; overflow-wrap: anywhere; } td:not(.n) { min-width: 9rem; }
tbody th:not(.n) { min-width: 8rem; }
.messages th { width: 4.5rem; } .messages thead th + th { width: 50%; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.whole { white-space: nowrap; }
.no { color: var(--red); white-space: nowrap; }
details { margin: 0 0 .5rem; }
summary { cursor: pointer; color: var(--soft); font-size: .86rem; padding: .15rem 0; }
summary:hover { color: var(--ink); }
pre { margin: .4rem 0 .8rem; padding: .8rem 1rem; background: var(--track); border-radius: 6px; overflow-x: auto; }
footer { color: var(--soft); font-size: .84rem; margin-top: 1.75rem; }
.symbols { position: absolute; width: 0; height: 0; }
@media (max-width: 52rem) { .plot .minor { display: none; } }
@media (max-width: 40rem) {
  body { padding: 1.25rem .75rem 2rem; font-size: 14px; }
  section { padding: 1.1rem 1rem 1rem; border-radius: 8px; }
  h1 { font-size: 1.35rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .9rem 1rem; }
  .tiles dd { font-size: 1.2rem; }
  .facts { grid-template-columns: 1fr; } .facts dt { flex-basis: 7rem; }
  .plot { width: calc(100% - 46px); margin-left: 42px; margin-right: 4px; }
  .legend { gap: .2rem .9rem; }
  th, td { padding: .34rem .45rem; } .messages td { min-width: 6.5rem; } .messages th { width: 3rem; }
}
@media print {
  body { padding: 0; font-size: 10.5pt; } section { box-shadow: none; padding: .8rem 1rem; }
  figure, .tiles, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
figure { margin: 0; }
"""
)

# Drawn once, used for every mark: a cross for a crash, a diamond for a kill, a ring for a planned replacement.
SYMBOLS = """<svg class="symbols" aria-hidden="true"><defs>
<symbol id="died" overflow="visible"><g class="sign died"><path class="under" d="M-3.5-3.5L3.5 3.5M-3.5 3.5L3.5-3.5"/>
<path d="M-3.5-3.5L3.5 3.5M-3.5 3.5L3.5-3.5"/></g></symbol>
<symbol id="killed" overflow="visible"><path class="sign killed" d="M0-4.5L4.5 0L0 4.5L-4.5 0Z"/></symbol>
<symbol id="recycled" overflow="visible"><circle class="sign recycled" r="3"/></symbol>
</defs></svg>"""

# Before the words that say the same: a check, a cross, a pause, a running dot.
ICONS = {
    "good": '<path class="pen" d="M5.5 10.5l3 3L14.5 7"/>',
    "bad": '<path class="pen" d="M6.5 6.5l7 7m0-7l-7 7"/>',
    "odd": '<path class="pen" d="M8 6.5v7m4-7v7"/>',
    "on": '<circle cx="10" cy="10" r="4" fill="currentColor"/>',
}
