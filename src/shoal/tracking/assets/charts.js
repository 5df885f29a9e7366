"use strict";
// Shared by both scripts: the embedded data, the tooltip, and numbers as people read them.
const DATA = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const runColor = (i) => `var(--r${(i % 8) + 1})`;

function seconds(v) {
  if (v > 0 && v < 0.9995) return v >= 1e-3 ? `${(v * 1e3).toFixed(0)} ms` : `${(v * 1e6).toFixed(0)} µs`;
  if (Math.round(v * 10) / 10 < 60) return `${v.toFixed(1)} s`;
  const two = (n) => String(n).padStart(2, "0");
  const whole = Math.round(v);
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  const minutes = Math.round(v / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} m`;
  const hours = Math.round(v / 3600);
  return `${Math.floor(hours / 24)} d ${two(hours % 24)} h`;
}

function bytes(v) {
  const names = ["B", "kB", "MB", "GB", "TB", "PB"];
  let i = 0;
  while (i < 5 && Math.round(v) >= 1000) { v /= 1000; i += 1; }
  return `${v.toFixed(i === 0 || v >= 100 ? 0 : 1)} ${names[i]}`;
}

const count = (v) => Math.round(v).toLocaleString("en-US");
const human = { time: seconds, bytes, count, number: (v) => v.toFixed(3) };

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function tipRow(label, value, color) {
  const row = element("div", undefined, "row");
  const key = element("span", undefined, "key");
  if (color) {
    const dot = element("span", undefined, "swatch");
    dot.style.background = color;
    key.append(dot);
  }
  key.append(label);
  row.append(key, element("span", value));
  return row;
}

function showTip(event, nodes) {
  tip.replaceChildren(...nodes);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 16 + width < innerWidth;
  tip.style.left = `${Math.max(4, right ? event.clientX + 16 : event.clientX - 16 - width)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 8))}px`;
}

const hideTip = () => { tip.hidden = true; };

// The metric and axis switches show one of the drawn charts.
const chosen = {};
function choose(kind, value) {
  chosen[kind] = value;
  for (const button of document.querySelectorAll(`[data-choose="${kind}"]`)) {
    button.setAttribute("aria-pressed", String(button.value === value));
  }
  for (const chart of document.querySelectorAll("[data-metric]")) {
    chart.hidden = chart.dataset.metric !== chosen.metric || chart.dataset.over !== chosen.over;
  }
}

for (const button of document.querySelectorAll("[data-choose]")) {
  if (button.getAttribute("aria-pressed") === "true") chosen[button.dataset.choose] = button.value;
  button.addEventListener("click", () => choose(button.dataset.choose, button.value));
}

// A pointer over a line chart reads the value of every run there.
function lastBefore(list, value) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}

function readings(metric, over, value) {
  const rows = [];
  DATA.curves.forEach((curve, i) => {
    const y = curve.y[metric];
    const at = lastBefore(curve.x[over], value);
    if (y && at >= 0 && y[at] !== null) rows.push({ name: DATA.names[i], i, value: y[at] });
  });
  return rows.sort((a, b) => b.value - a.value);
}

for (const chart of document.querySelectorAll("[data-metric]")) {
  const svg = chart.querySelector("svg[data-scale]");
  if (!svg) continue;
  const [left, top, width, height, low, high] = svg.dataset.scale.split(" ").map(Number);
  const line = element("div", undefined, "cursor");
  line.hidden = true;
  chart.append(line);
  chart.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const zoom = box.width / svg.viewBox.baseVal.width;
    const share = ((event.clientX - box.left) / zoom - left) / width;
    if (share < 0 || share > 1) { line.hidden = true; hideTip(); return; }
    const value = low + share * (high - low);
    const { metric, over } = chart.dataset;
    const rows = readings(metric, over, value).map((r) =>
      tipRow(r.name, r.value.toFixed(3), runColor(r.i)));
    const x = chart.getBoundingClientRect();
    line.hidden = false;
    line.style.left = `${event.clientX - x.left + chart.scrollLeft}px`;
    line.style.top = `${box.top - x.top + top * zoom}px`;
    line.style.height = `${height * zoom}px`;
    showTip(event, [element("b", human[svg.dataset.kind](value)), ...rows]);
  });
  chart.addEventListener("pointerleave", () => { line.hidden = true; hideTip(); });
}
