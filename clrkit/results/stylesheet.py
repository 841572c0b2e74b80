"""How the report page looks: on a phone, on a screen, in the dark and on paper."""

STYLE = """
:root {
  --page: #fbfbfa; --card: #ffffff; --ink: #1c1e21; --soft: #54585e; --line: #dcdee1; --link: #0b5cad;
  --yes: #0a6640; --yes-back: #dcf3e6; --no: #9c2b00; --no-back: #fde8de;
  --open: #4a4f57; --open-back: #e9ebee; --published: #f1f0ea; --shade: #00000040;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --card: #1d2024; --ink: #e8eaed; --soft: #adb3bb; --line: #363b42; --link: #7db8ff;
    --yes: #8fe3b6; --yes-back: #123524; --no: #ffb59b; --no-back: #44200f;
    --open: #c8cdd4; --open-back: #30353c; --published: #2b2a24; --shade: #000000b0;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: break-word;
}
h1 { margin: 0 0 .5rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.05rem; line-height: 1.35; }
p, ul, dl { margin: .5rem 0; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.soft, figcaption { color: var(--soft); font-size: .925rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0; list-style: none; }
nav a { display: inline-block; padding: .3rem 0; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.claims { padding: 0; list-style: none; }
.claims > li {
  margin: .75rem 0; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card);
}
.claims p { margin: .3rem 0; }
.claims ul { padding-left: 1.1rem; }
.name { font-weight: 600; }
.verdict {
  padding: .1rem .5rem; border-radius: .3rem; font-size: .875rem; font-weight: 600; white-space: nowrap;
}
.supported { background: var(--yes-back); color: var(--yes); }
.not-supported { background: var(--no-back); color: var(--no); }
.undecided { background: var(--open-back); color: var(--open); }
summary { padding: .3rem 0; color: var(--link); cursor: pointer; }
figure { margin: .5rem 0 1.5rem; }
.paper {
  display: block; padding: .5rem; border: 1px solid var(--line); border-radius: .5rem; background: #ffffff;
  overflow-x: auto;
}
.paper img { display: block; width: 100%; max-width: 46rem; height: auto; margin: 0 auto; }
.larger { display: none; }
@media (max-width: 44rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dt { margin-top: .4rem; font-size: .875rem; }
  .larger { display: flex; gap: .5rem; align-items: center; width: max-content; padding: .4rem 0; }
  .larger input { width: 1.15rem; height: 1.15rem; margin: 0; }
  figure:has(:checked) img { width: 46rem; max-width: none; }
}
.scroll {
  margin: .5rem 0; overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem;
  /* A shade at an edge says that there is more; at the end, what scrolls with the table covers it. */
  background:
    linear-gradient(to right, var(--card) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat,
    linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat,
    var(--card);
}
table { width: 100%; border-collapse: collapse; font-size: .925rem; line-height: 1.4; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.published { background: var(--published); }
footer {
  margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .925rem;
}
@media print {
  :root {
    --page: #ffffff; --card: #ffffff; --ink: #000000; --soft: #333333; --line: #bbbbbb; --link: #000000;
    --yes: #0a6640; --yes-back: #ffffff; --no: #9c2b00; --no-back: #ffffff;
    --open: #333333; --open-back: #ffffff; --published: #f1f0ea;
  }
  @page { margin: 16mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, .larger, summary { display: none; }
  details::details-content { content-visibility: visible; display: block; }
  h2, h3 { break-after: avoid; }
  figure, tr, .claims > li { break-inside: avoid; }
  .paper, .scroll { overflow: visible; }
  .paper img, figure:has(:checked) img { width: 100%; max-width: 15cm; }
  table { font-size: 8pt; }
  th, td { padding: .3rem; }
}
"""
