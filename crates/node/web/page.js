// What makes a screen live where there is JavaScript. Everything works without it.
//
// Elements with data-poll are fetched anew that often (milliseconds), those with data-live also soon after an event of
// the node. Both only while somebody sees the page: a hidden one holds no connection.
"use strict";

(() => {
  // Events that come together cause one look.
  const TOGETHER_MS = 600;
  // However many come, looks are at least so far apart.
  const APART_MS = 1500;

  let source = null;
  let timer = null;
  let looked = 0;
  const due = new Map();

  const refresh = (element) => htmx.trigger(element, "refresh");

  const look = () => {
    timer = null;
    looked = Date.now();
    document.querySelectorAll("[data-live]").forEach(refresh);
  };

  const happened = () => {
    if (timer !== null) return;
    timer = setTimeout(look, Math.max(TOGETHER_MS, looked + APART_MS - Date.now()));
  };

  const follow = () => {
    if (source !== null || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource("/api/v1/events?since_seconds=0");
    source.onmessage = happened;
    source.onopen = () => document.documentElement.setAttribute("data-following", "");
  };

  const leave = () => {
    if (source !== null) source.close();
    source = null;
  };

  const tick = () => {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("[data-poll]")) {
      const every = Number(element.dataset.poll);
      const last = due.get(element.id) ?? Date.now();
      due.set(element.id, last);
      if (every > 0 && Date.now() - last >= every) refresh(element);
    }
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return leave();
    follow();
    look();
  });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", follow);
  setInterval(tick, 500);
  follow();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const scaled = (value, step, units) => {
    let unit = 0;
    while (value >= step && unit < units.length - 1) {
      value /= step;
      unit += 1;
    }
    return `${value < 10 && value % 1 !== 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
  };
  const written = {
    rate: (value) => (value === 0 ? "0" : scaled(value, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"])),
    size: (value) => (value === 0 ? "0" : scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])),
  };

  // Steps between the lines of an axis of sizes.
  const powers = Array.from({ length: 52 }, (_, exponent) => 2 ** exponent);

  // By the class of the style sheet.
  const shades = {
    sent: { stroke: "--sent", fill: "29" },
    limit: { stroke: "--drift", dash: [5, 4], stepped: true },
    backlog: { stroke: "--found", fill: "33" },
  };
  // As crates/node/src/http/page/plot.rs has them: share of a place, and the widest in pixels.
  const bars = [[0.62, 64], [0.3, 32]];

  const draw = (box) => {
    const told = JSON.parse(box.dataset.plot);
    const text = written[told.unit];
    const axis = { stroke: colour("--soft"), font: "11px system-ui", ticks: { show: false }, grid: { stroke: colour("--line"), width: 1 } };
    const { labels } = told;
    const series = told.names.map((name, n) => {
      const shade = shades[told.classes[n]];
      const stroke = colour(shade.stroke);
      if (labels) {
        const paths = uPlot.paths.bars({ size: bars[Math.min(n, 1)] });
        return { label: name, stroke, width: 0, fill: stroke, points: { show: false }, paths };
      }
      return {
        label: name,
        stroke,
        width: 1.6,
        dash: shade.dash,
        fill: shade.fill && stroke + shade.fill,
        points: { show: false },
        paths: shade.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
        value: (_, value) => (value === null ? "none" : text(value)),
      };
    });
    const clock = labels ? null : new Intl.DateTimeFormat("en-GB", { timeZone: told.zone, hour: "2-digit", minute: "2-digit" });
    const below = labels
      ? { incrs: [1, 2, 5, 10, 20, 50, 100], values: (_, ticks) => ticks.map((tick) => labels[tick - 1] ?? "") }
      : { values: [[86400, "{YYYY}-{MM}-{DD}"], [3600, "{HH}:{mm}"], [60, "{HH}:{mm}"], [1, "{HH}:{mm}:{ss}"]] };
    const scale = labels ? { x: { time: false, range: () => [0.5, labels.length + 0.5] } } : {};
    const tip = document.createElement("p");
    tip.className = "max";
    const options = {
      width: box.clientWidth,
      height: 182,
      // By the node's clock, as everywhere on the page.
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), told.zone),
      padding: [10, 16, 0, 0],
      cursor: { y: false, drag: { x: !labels, y: false } },
      legend: { show: false },
      axes: [
        { ...axis, size: 26, grid: { show: false }, ...below },
        { ...axis, size: 74, incrs: told.unit === "size" ? powers : undefined, values: (_, ticks) => ticks.map(text) },
      ],
      scales: { ...scale, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
      series: [{}, ...series],
      hooks: {
        setCursor: [
          (plot) => {
            const at = plot.cursor.idx;
            tip.hidden = at === null || at === undefined;
            if (tip.hidden) return;
            const time = labels ? labels[at] : clock.format(new Date(told.times[at] * 1000));
            const values = told.names.map((name, n) => {
              const value = told.values[n][at];
              return `${name} ${value === null ? "none" : text(value)}`;
            });
            tip.textContent = `${time}  ${values.join("  ")}`;
          },
        ],
      },
    };
    const plot = new uPlot(options, [told.times, ...told.values], box);
    box.classList.add("drawn");
    box.querySelector("svg").setAttribute("aria-hidden", "true");
    plot.root.setAttribute("role", "img");
    plot.root.setAttribute("aria-label", box.querySelector("svg").getAttribute("aria-label"));
    plot.over.append(tip);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: 182 })).observe(box);
  };

  const prepare = (root) => {
    if (root.id && root.dataset.poll) due.set(root.id, Date.now());
    for (const box of root.querySelectorAll(".canvas[data-plot]:not(.drawn)")) {
      if (typeof uPlot === "function") draw(box);
    }
  };
  htmx.onLoad(prepare);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    const trends = document.querySelector("#trends");
    if (trends) refresh(trends);
  });
})();
