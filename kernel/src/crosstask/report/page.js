// A `.view` is a set of controls and the figures that obey them. Each figure is kept as its JSON; to draw is to read it
// again, with the colours of the theme and without what the controls hide. What a trace says in its `meta`:
//   series  what hides it, when one of these buttons is not pressed
//   group   the choice of the dropdown that shows it
//   edges   [strength, source, target] of each edge it holds, `span` points each. Lines and arrows are two traces
//           that hold the same edges; the arrows have the `text`, one for each edge
//   tasks   its points are tasks: a click on one shows the edges of that task alone
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colours = new Map(Object.entries(JSON.parse(document.getElementById("palette").textContent)));
  const read = (text) => JSON.parse(text, (key, value) => (dark.matches && colours.get(value)) || value);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  function onlyEdges(trace, kept) {
    const { edges, span } = trace.meta;
    const points = (list) => edges.flatMap((e, i) => (kept(e) ? list.slice(i * span, (i + 1) * span) : []));
    if (trace.text) trace.text = edges.flatMap((e, i) => (kept(e) ? Array(span).fill(trace.text[i]) : []));
    if (trace.marker) trace.marker.size = points(trace.marker.size);
    trace.x = points(trace.x);
    trace.y = points(trace.y);
    return trace;
  }

  const views = [...document.querySelectorAll(".view")].map((root) => {
    const find = (selector) => root.querySelector(selector);
    const [slider, focus, group, told] = ["input", ".focus", ".group", "output"].map(find);
    const buttons = [...root.querySelectorAll(".legend button")];
    const figures = [...root.querySelectorAll("figure")].map((figure) => ({
      source: figure.querySelector("script").textContent,
      place: figure.querySelector(".plot"),
    }));

    function draw() {
      const hidden = new Set(buttons.filter((b) => b.ariaPressed === "false").map((b) => b.dataset.series));
      const task = focus?.value ? Number(focus.value) : null;
      let shown = 0, known = 0;
      const kept = ([strength, source, target]) =>
        strength >= Number(slider.value) && (task === null || task === source || task === target);
      const wanted = ({ meta = {} }) =>
        !(meta.series || []).some((name) => hidden.has(name)) && (!meta.group || meta.group === group.value);
      for (const { source, place } of figures) {
        const { data, layout } = read(source);
        const arrows = ({ meta, text }) => (meta?.edges && text ? meta.edges : []);
        known += data.flatMap(arrows).length;
        shown += data.filter(wanted).flatMap(arrows).filter(kept).length;
        const traces = data.filter(wanted).map((trace) => (trace.meta?.edges ? onlyEdges(trace, kept) : trace));
        // a finger that drags over a figure wants to scroll the page
        if (!matchMedia("(pointer: fine)").matches) layout.dragmode = false;
        Plotly.react(place, traces, layout, config);
      }
      if (slider) told.textContent = `${Number(slider.value).toFixed(2)} · ${shown} of ${known} edges shown`;
      if (group) told.textContent = group.selectedOptions[0].dataset.note;
    }

    draw();
    slider?.addEventListener("input", draw);
    for (const choice of [focus, group]) choice?.addEventListener("change", draw);
    for (const button of buttons) {
      button.addEventListener("click", () => {
        button.ariaPressed = String(button.ariaPressed === "false");
        draw();
      });
    }
    if (focus) {
      figures[0].place.on("plotly_click", ({ points: [point] }) => {
        if (!point.data.meta.tasks) return;
        const chosen = String(point.pointNumber);
        focus.value = focus.value === chosen ? "" : chosen;
        draw();
      });
    }
    return draw;
  });
  dark.addEventListener("change", () => views.forEach((draw) => draw()));
})();
