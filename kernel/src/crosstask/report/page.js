// A `.view` is a set of controls and the figures that obey them. Each figure is kept as its JSON; to draw is to read it
// again, with the colours of the theme and without what the controls hide. What a trace says in its `meta`:
//   series  what hides it, when one of these buttons is not pressed
//   group   the choice of the dropdown that shows it
//   edges   [strength, source, target] of each edge it holds, `span` points each. Lines and arrows are two traces
//           that hold the same edges; the arrows have the `text`, one for each edge
//   tasks   its points are the tasks of the dropdown: a click on one shows the edges of that task alone
// Each figure can be entered with the tab key. There the arrow keys go from point to point and show what the mouse would,
// Enter on a task is a click on it, Escape ends it. `#marks` says which tasks of a graph are marked, and as what.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colours = new Map(Object.entries(JSON.parse(document.getElementById("palette").textContent)));
  const read = (text) => JSON.parse(text, (key, value) => (dark.matches && colours.get(value)) || value);
  const marks = JSON.parse(document.getElementById("marks").textContent);
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

  function withMarks(trace, tasks) {
    if (!tasks.some((id) => Object.hasOwn(marks, id))) return trace;
    const each = (marked, plain) => tasks.map((id, i) => (Object.hasOwn(marks, id) ? marked(id, i) : plain(i)));
    const { color, width } = trace.marker.line;
    trace.text = each((id, i) => `◎ ${trace.text[i]}`, (i) => trace.text[i]);
    const said = (id, i) => `${trace.hovertext[i]}<br><b>${marks[id][1]}</b>`;
    trace.hovertext = each(said, (i) => trace.hovertext[i]);
    const ring = read('"#d55e00"'); // of the palette: series2
    trace.marker.line = { color: each(() => ring, () => color), width: each(() => 4, () => width) };
    return trace;
  }

  // what the arrow keys visit: the points that the mouse could find, tasks first, then from left to right and row by row
  function stops(place) {
    const found = [];
    (place._fullData || []).forEach((trace, curveNumber) => {
      if (trace.visible !== true || trace.hoverinfo === "skip") return;
      if (trace.type === "heatmap") {
        trace.z.forEach((row, y) => row.forEach((z, x) => {
          if (z !== null && z !== undefined) found.push({ where: { curveNumber, xval: x, yval: y }, at: [0, y, x] });
        }));
        return;
      }
      const sizes = trace.marker?.size;
      (trace.x || []).forEach((x, pointNumber) => {
        if (x === null || (trace.meta?.edges && !sizes?.[pointNumber])) return;
        const y = Number(trace.y[pointNumber]);
        const task = Boolean(trace.meta?.tasks);
        const inRow = place.classList.contains("rows") ? [0, y, Number(x)] : [0, curveNumber, pointNumber];
        found.push({ where: { curveNumber, pointNumber }, task, at: task ? [-1, pointNumber, 0] : inRow });
      });
    });
    return found.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1] || a.at[2] - b.at[2]);
  }

  function keys(place, chosen) {
    let at = -1;
    place.tabIndex = 0;
    place.setAttribute("role", "application");
    const told = document.createElement("p");
    told.className = "unseen";
    told.setAttribute("aria-live", "polite");
    place.after(told);
    const leave = () => {
      at = -1;
      told.textContent = "";
      Plotly.Fx.unhover(place);
    };
    const tell = (tries) => {
      if (at < 0) return; // the focus has left
      const lines = (e) => [...e.querySelectorAll(".line")].map((line) => line.textContent).join("; ") || e.textContent;
      told.textContent = [...place.querySelectorAll(".hoverlayer .hovertext .nums")].map(lines).join("; ");
      if (!told.textContent && tries) setTimeout(tell, 100, tries - 1); // a slow machine has not drawn it yet
    };
    const visit = (list) => {
      Plotly.Fx.hover(place, [list[at].where]);
      setTimeout(tell, 100, 20); // plotly draws tooltips at most every 50 ms, and tells of those of the mouse only
    };
    place.addEventListener("keydown", (event) => {
      const list = stops(place);
      const last = list.length - 1;
      const [on, back] = [at + 1, at - 1];
      const goes = { ArrowRight: on, ArrowDown: on, ArrowLeft: back, ArrowUp: back, Home: 0, End: last };
      const next = goes[event.key];
      if (next !== undefined && last >= 0) {
        at = next > last ? 0 : next < 0 ? last : next;
        visit(list);
      } else if (event.key === "Enter" && list[at]?.task) {
        chosen(list[at].where.pointNumber);
        visit(stops(place)); // tasks come first, and all of them stay: it is the same place
      } else if (event.key === "Escape" && at >= 0) {
        leave();
      } else return;
      event.preventDefault();
    });
    place.addEventListener("blur", leave);
  }

  const views = [...document.querySelectorAll(".view")].map((root) => {
    const find = (selector) => root.querySelector(selector);
    const [slider, focus, group, told] = ["input[type=range]", ".focus", ".group", "output"].map(find);
    const tasks = [...(focus?.options || [])].slice(1).map((option) => option.textContent);
    const switches = [...root.querySelectorAll(".switch")];
    const buttons = [...root.querySelectorAll(".legend button")];
    const figures = [...root.querySelectorAll("figure")].map((figure) => ({
      source: figure.querySelector("script").textContent,
      place: figure.querySelector(".plot"),
    }));

    function draw() {
      const off = [...buttons.filter((b) => b.ariaPressed === "false"), ...switches.filter((s) => !s.checked)];
      const hidden = new Set(off.map((b) => b.dataset.series));
      const unasked = new Set(switches.filter((s) => !s.checked).map((s) => s.dataset.series));
      const task = focus?.value ? Number(focus.value) : null;
      let shown = 0, known = 0;
      const kept = ([strength, source, target]) =>
        strength >= Number(slider.value) && (task === null || task === source || task === target);
      const wanted = ({ meta = {} }) =>
        !(meta.series || []).some((name) => hidden.has(name)) && (!meta.group || meta.group === group.value);
      for (const { source, place } of figures) {
        const { data, layout } = read(source);
        const arrows = ({ meta, text }) => (meta?.edges && text ? meta.edges : []);
        const asked = ({ meta }) => !(meta?.series || []).some((name) => unasked.has(name));
        known += data.filter(asked).flatMap(arrows).length;
        shown += data.filter(wanted).flatMap(arrows).filter(kept).length;
        const traces = data.filter(wanted).map((trace) =>
          trace.meta?.edges ? onlyEdges(trace, kept) : trace.meta?.tasks ? withMarks(trace, tasks) : trace);
        // a finger that drags over a figure wants to scroll the page
        if (!matchMedia("(pointer: fine)").matches) layout.dragmode = false;
        Plotly.react(place, traces, layout, config);
      }
      if (slider) told.textContent = `${Number(slider.value).toFixed(2)} · ${shown} of ${known} edges shown`;
      if (group) told.textContent = group.selectedOptions[0].dataset.note;
    }

    slider?.addEventListener("input", draw);
    for (const choice of [focus, group, ...switches]) choice?.addEventListener("change", draw);
    const choose = (task, again) => {
      focus.value = again && focus.value === String(task) ? "" : String(task);
      draw();
    };
    for (const { place } of figures) keys(place, (task) => choose(task, true));
    for (const button of buttons) {
      button.addEventListener("click", () => {
        button.ariaPressed = String(button.ariaPressed === "false");
        draw();
      });
    }
    if (focus) {
      for (const button of root.parentElement.querySelectorAll("[data-focus]")) {
        button.addEventListener("click", () => {
          choose(button.dataset.focus, false);
          figures[0].place.focus({ preventScroll: true });
          root.scrollIntoView({ block: "nearest" });
        });
      }
      const said = tasks.filter((id) => Object.hasOwn(marks, id)).map((id) => `◎ ${id}: ${marks[id][0]}`);
      const marked = root.parentElement.querySelector(".marked");
      if (marked && said.length) {
        marked.textContent = said.join("\n");
        marked.hidden = false;
      }
    }
    function begin() {
      draw();
      if (!focus) return;
      figures[0].place.on("plotly_click", ({ points: [point] }) => {
        if (!point.data.meta.tasks) return;
        choose(point.pointNumber, true);
      });
    }
    return { root, draw, begin };
  });

  // What the reader sees is drawn at once, the rest one after another while nothing else is to do
  const waiting = new Set(views);
  const begin = (view) => waiting.delete(view) && view.begin();
  for (const view of views) if (view.root.getBoundingClientRect().top < innerHeight) begin(view);
  const next = () => {
    const [view] = waiting;
    if (!view) return;
    begin(view);
    later();
  };
  const later = () => (self.requestIdleCallback || setTimeout)(next);
  later();
  const coming = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) if (isIntersecting) begin(views.find(({ root }) => root === target));
  }, { rootMargin: "50%" });
  for (const { root } of waiting) coming.observe(root);
  addEventListener("beforeprint", () => waiting.forEach(begin));
  dark.addEventListener("change", () => views.forEach((view) => waiting.has(view) || view.draw()));
})();
